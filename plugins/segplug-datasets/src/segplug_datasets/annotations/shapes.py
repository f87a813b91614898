"""Base of data sets of annotated shapes: classes, overlap of shapes, and unannotated pixels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypedDict

import numpy as np

from segkernel.errors import DataError, UsageError
from segkernel.geometry import Geometry
from segkernel.labels import IGNORE, Color
from segkernel.sample import LabelMap, ObjectField, Sample, Size
from segplug_datasets import image
from segplug_datasets.annotations.objects import Instances, check_memory, object_fields
from segplug_datasets.annotations.objects import Shape as Shape
from segplug_datasets.annotations.raster import Region, Rule, as_points, polygon
from segplug_datasets.annotations.records import as_data_error
from segplug_datasets.headers import orientation
from segplug_datasets.label_spec import LabelSpec
from segplug_datasets.labelled import Labelled
from segplug_datasets.left_out import LeftOut, report_left_out, warn_once
from segplug_datasets.listing import IMAGE_SUFFIXES, find_named, match_name, read_list, require_files, resolve, take
from segplug_datasets.mapping import Classes, regroup, regrouped_palette, require_name

Overlap = Literal["smaller", "order"]
IGNORED = "ignored"
EMPTY = "objects_without_pixels"
"""Key of the number in a sample's ``meta``, if there are any."""
EXAMPLE: dict[str, Size] = {"0.png": (12, 16), "1.png": (9, 20)}
"""Images of the tiny data sets for the conformance checks."""

_UNANNOTATED = "They are all background; set 'unannotated' to ignore or skip them."
_BACKGROUND_COLOR = (0, 0, 0)
_LEFT_OUT = -1


class ShapeOptions(TypedDict, total=False):
    """The arguments of `ShapeDataset`."""

    classes: Classes | None
    palette: Sequence[Color] | None
    background: str | None
    others: str | None
    unannotated: Literal["background", "ignored", "skipped"]
    overlap: Overlap | None
    polygons: Rule | None
    indices: int | Sequence[int] | None
    names: str | Path | None
    instances: Instances | None


@dataclass
class AnnotationIndex:
    """The annotations found in the files of a subclass.

    Args:
        images: Folder of the images.
        names: File names of the images, under that folder.
        keys: Key of each image by which the subclass reads its shapes, an array or a list.
        annotated: Whether each image has an annotation.
        categories: Category names.
        what: The file that lists the images, for messages.
        palette: A colour per category, or empty.
        left_out: Objects of the file that are skipped.
    """

    images: Path
    names: Sequence[str]
    keys: Sequence[Any] | np.ndarray
    annotated: Sequence[bool]
    categories: Sequence[str]
    what: str
    palette: Sequence[Color] = ()
    left_out: Sequence[LeftOut] = ()


class ShapeDataset(Labelled):
    """Images with outlined or painted objects; a subclass reads the files of one tool.

    Class 0 is the background; the other classes follow in the order of the file, or of ``classes``.

    Args:
        classes: Names from the file, in this order, or new names, each with the names it merges; all when None.
        palette: One RGB colour per class, the background's first; those of the file or a fixed table when None.
        background: Class of pixels without an object: class 0, unless it is one of ``classes``. None ignores these
            pixels.
        others: Class of the objects that ``classes`` leaves out; ``ignored`` ignores their pixels; None treats them
            as not annotated.
        unannotated: Whether images without any annotation are background, ignored, or skipped.
        overlap: The object on top of overlapping ones: the smaller one, or the later one in the file.
        polygons: Which pixels belong to a polygon, see `segplug_datasets.annotations.raster`.
        indices: The first N samples for N, the last N for -N, those listed for a list; all when None.
        names: Text file with the names of the images to take, one per line; all when None.
        instances: Adds the fields of objects, see `segplug_datasets.annotations.objects`: with ``polygons``, with
            ``masks`` as bitmaps, or with ``boxes`` only; None adds none. For a model of instances set ``background`` to
            None, so that class 0 is an object's.

    Raises:
        DataError: When files are missing or damaged, or the list names an image that the annotations do not.
        UsageError: When a name does not exist.
    """

    keypoint_names: Sequence[str] = ()
    """Names of the keypoints that objects have."""
    default_overlap: ClassVar[Overlap] = "order"
    default_polygons: ClassVar[Rule] = "area"

    def __init__(
        self,
        classes: Classes | None = None,
        palette: Sequence[Color] | None = None,
        background: str | None = "background",
        others: str | None = None,
        unannotated: Literal["background", "ignored", "skipped"] = "background",
        overlap: Overlap | None = None,
        polygons: Rule | None = None,
        indices: int | Sequence[int] | None = None,
        names: str | Path | None = None,
        instances: Instances | None = None,
    ) -> None:
        with as_data_error(self._source()):
            index = self._open()
        self._overlap, self._rule = overlap or self.default_overlap, polygons or self.default_polygons
        self._unannotated, self._instances = unannotated, instances
        self._choose(index, classes, palette, background, others)
        annotated = np.asarray(index.annotated, bool)
        everything = range(len(annotated)) if names is None else _listed(index, resolve(None, names))
        kept = [number for number in everything if annotated[number] or unannotated != "skipped"]
        chosen: list[int] = take(kept, indices)
        if not chosen and unannotated == "skipped":
            raise DataError("no image here has an annotation", index.what)
        places = find_named(index.images, [index.names[number] for number in chosen], index.what)
        self._names = [os.path.relpath(place, index.images) for place in places]
        keys = index.keys
        self._keys = keys[chosen] if isinstance(keys, np.ndarray) else [keys[number] for number in chosen]
        self._annotated = annotated[chosen]
        self._images = str(index.images)
        self.left_out = [part for part in index.left_out if part.count]
        bare = len(self._annotated) - int(np.count_nonzero(self._annotated))
        if bare and unannotated == "background":
            what = f"of {len(self._annotated)} images have no annotation"
            usual = bare < len(self._annotated)
            self.left_out.append(LeftOut("unannotated-images", bare, what, _UNANNOTATED, usual))
        report_left_out(index.what, self.left_out)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Sample:
        name = self._names[index]
        path = os.path.join(self._images, name)
        sample = Sample(image=image.read(path), meta={"path": path, "name": os.path.splitext(name)[0]})
        if self._annotated[index] or self._unannotated != "ignored":
            with as_data_error(f"{self._source()}, image {name}"):
                self._annotate(sample, self._keys[index])
        else:
            self._ignore(sample)
        return sample

    def _source(self) -> object:
        """Return the path of the annotations, for messages."""
        return getattr(self, "data_root", "")

    def _open(self) -> AnnotationIndex:
        """Read the index of the files, without the shapes."""
        raise NotImplementedError

    def _shapes(self, sample: Sample, key: Any) -> Iterable[Shape]:
        """Read the shapes of a sample."""
        raise NotImplementedError

    def _read(self, sample: Sample, key: Any) -> list[Shape]:
        """Return the shapes of a sample."""
        shapes, taken = [], 0
        for shape in self._shapes(sample, key):
            shapes.append(shape)
            taken += shape.region.mask.nbytes
            if self._instances is not None:
                check_memory(taken, len(shapes))
        return shapes

    def _annotate(self, sample: Sample, key: Any) -> None:
        try:
            self._add_fields(sample, self._read(sample, key))
        except MadeOnStoredPixelsError as error:
            stored = Sample(image=sample.image.swapaxes(0, 1), meta=sample.meta)
            self._add_fields(stored, self._read(stored, key))
            turn = Upright(error.orientation)
            sample.fields = {name: field.apply(turn, stored.size) for name, field in stored.fields.items()}
            what = f"size of the image before its EXIF rotation; labels are rotated with it: {sample.meta['path']}"
            warn_once(f"{self._source()}, stored pixels", f"{self._source()}: {what}, and similar files")

    def _add_fields(self, sample: Sample, shapes: Sequence[Shape]) -> None:
        """Add the label map, and the fields of objects if they are wanted."""
        count_empty(sample, shapes, self._source())
        sample["seg"] = LabelMap(self._paint(shapes, sample.size))
        if self._instances is not None:
            sample.fields |= self._object_fields(shapes, sample.size)

    def _ignore(self, sample: Sample) -> None:
        """Add the fields of an image of which nothing is known."""
        self._add_fields(sample, [])
        sample["seg"] = LabelMap(np.full(sample.size, IGNORE, np.uint8))

    def _object_fields(self, shapes: Sequence[Shape], size: Size) -> dict[str, ObjectField]:
        """Return the fields of the shapes that are objects of one of the classes."""
        named = [(shape, self._ids[shape.category]) for shape in shapes if shape.category is not None and shape.listed]
        objects = [(shape, class_id) for shape, class_id in named if class_id not in (IGNORE, _LEFT_OUT)]
        return object_fields(objects, size, self._instances or "boxes", self.keypoint_names)

    def _paint(self, shapes: Sequence[Shape], size: Size) -> np.ndarray:
        """Return the label map of shapes, (H, W) uint8."""
        canvas = np.full(size, self._empty, np.uint8)
        drawn = [(shape, self._class_id(shape)) for shape in shapes]
        drawn = [(shape, class_id) for shape, class_id in drawn if class_id != _LEFT_OUT]
        areas = [-shape.region.area if self._overlap == "smaller" else 0 for shape, _ in drawn]
        for number in sorted(range(len(drawn)), key=lambda number: (drawn[number][0].layer, areas[number])):
            shape, class_id = drawn[number]
            shape.region.paint(canvas, class_id)
        return canvas

    def _polygon(self, values: Any, size: Size, where: str = "") -> Region:
        return polygon(as_points(values, where), size, self._rule)

    def _class_id(self, shape: Shape) -> int:
        class_id = IGNORE if shape.category is None else self._ids[shape.category]
        return IGNORE if shape.ignored and class_id != _LEFT_OUT else class_id

    def _choose(
        self,
        index: AnnotationIndex,
        classes: Classes | None,
        palette: Sequence[Color] | None,
        background: str | None,
        others: str | None,
    ) -> None:
        """Set the labels, the class id of each category, and that of pixels without an object."""
        categories = list(dict.fromkeys(index.categories))
        if not categories and not classes:
            raise DataError("the file has no classes and no annotations", index.what)
        names, ids = regroup(categories, classes)
        colors: list[Color] = regrouped_palette(index.palette, ids, len(names))
        if background is not None and background not in names:
            names, colors = [background, *names], [_BACKGROUND_COLOR, *colors]
            ids = [class_id if class_id == IGNORE else class_id + 1 for class_id in ids]
        if len(names) > IGNORE:
            raise UsageError(f"{len(names)} classes are too many for a label map: select or merge with 'classes'")
        rest = _LEFT_OUT if others is None else IGNORE
        if others is not None and others != IGNORED:
            require_name(others, names, f"'others' must be one of the classes, or {IGNORED!r}: ")
            rest = names.index(others)
        self.labels = LabelSpec(tuple(names), tuple(palette or colors))
        self._ids = {name: rest if class_id == IGNORE else class_id for name, class_id in zip(categories, ids)}
        self._empty = IGNORE if background is None else names.index(background)


def _listed(index: AnnotationIndex, path: Path) -> list[int]:
    """Return the numbers of the images that a text file names."""
    numbers = {os.path.splitext(name)[0]: number for number, name in enumerate(index.names)}
    listed = [match_name(line, numbers, index.images, IMAGE_SUFFIXES) for line in read_list(path)]
    require_files(listed, numbers, f"listed in {path} but not found in {index.what}")
    return [numbers[name] for name in dict.fromkeys(listed)]


class MadeOnStoredPixelsError(DataError):
    """An annotation was made on the stored image, without applying its EXIF ``orientation``, 5 to 8."""

    orientation = 1


@dataclass(frozen=True)
class Upright(Geometry):
    """Apply an EXIF orientation, 5 to 8, which exchanges height and width."""

    orientation: int

    def size(self, size: Size) -> Size:
        return size[1], size[0]

    def matrix(self, size: Size) -> np.ndarray:
        across = [0, -1, size[0]] if self.orientation in (6, 7) else [0, 1, 0]
        down = [-1, 0, size[1]] if self.orientation in (7, 8) else [1, 0, 0]
        return np.array([across, down, [0, 0, 1]], float)

    def raster(self, array: np.ndarray, interpolation: int, fill: float) -> np.ndarray:
        rows, columns = (slice(None, None, -1 if self.orientation in pair else 1) for pair in ((7, 8), (6, 7)))
        return np.ascontiguousarray(array.swapaxes(0, 1)[rows, columns])


def count_empty(sample: Sample, shapes: Sequence[Shape], source: object) -> None:
    """Record the number of objects without a pixel, such as lines, points, or tiny polygons."""
    count = sum(not shape.region.mask.any() for shape in shapes)
    if count:
        sample.meta[EMPTY] = count
        what = f"{count} objects of {sample.meta['path']} have no pixels: too small, or fewer than three points"
        warn_once(f"{source}, no pixel", f"{source}: {what}; further ones are not reported")


def require_declared(sample: Sample, size: Sequence[Any], where: str) -> None:
    """Check the image size declared in an annotation, if any.

    Raises:
        MadeOnStoredPixelsError: When it is the size before EXIF rotation.
        DataError: When it is another size.
    """
    if None in size or tuple(size) == sample.size:
        return
    there, here = " x ".join(map(str, size)), " x ".join(map(str, sample.size))
    path = sample.meta["path"]
    message = f"made for an image of {there}, but this one has {here} pixels (height, width): {path}"
    turn = orientation(path) if tuple(size) == sample.size[::-1] else 1
    if turn < 5:
        raise DataError(message, where)
    stored = MadeOnStoredPixelsError(f"{message}\n    its EXIF orientation {turn} rotates it when it is read", where)
    stored.orientation = turn
    raise stored


def is_image(name: str) -> bool:
    """Whether a file name has an image suffix."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def groups(owners: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return record indices sorted by owner, and the offsets of each owner's records, with a final end.

    Args:
        owners: (N,) owner of each record, 0 to ``count`` - 1.
        count: Number of owners.
    """
    order = np.argsort(owners, kind="stable").astype(np.int32)
    return order, np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=count))]).astype(np.int64)


def example_images(folder: Path, sizes: Mapping[str, Size]) -> None:
    """Write noise images for the conformance checks."""
    for number, (name, size) in enumerate(sizes.items()):
        rng = np.random.default_rng(number)
        image.write(folder / name, rng.integers(0, 256, (*size, 3), np.uint8))
