"""Data sets of image files in folders, with or without a folder of label files.

    FolderDataset(images="photos", masks="labels", classes=["background", "crack"])

Images and masks are matched by name: the path inside their folder, without the suffix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypedDict, cast

from typing_extensions import Required

from segkernel.annotations import FileName, Positive
from segkernel.errors import DataError, UsageError
from segkernel.labels import IGNORE, Color, Task
from segkernel.sample import DepthMap, LabelMap, Sample, WeightMap
from segplug_datasets import image
from segplug_datasets.example import write_example
from segplug_datasets.filelist import FileList
from segplug_datasets.folders import Folders
from segplug_datasets.label_reader import LabelArguments, LabelReader, label_reader
from segplug_datasets.label_reader import read_annotation as read_annotation
from segplug_datasets.label_spec import LabelSpec
from segplug_datasets.labelled import Labelled
from segplug_datasets.listing import (
    IMAGE_SUFFIXES,
    NamedFiles,
    as_pairs,
    clean,
    find_files,
    locate,
    read_list,
    require_files,
    resolve,
    take,
    without_suffix,
)
from segplug_datasets.mapping import Metainfo as Metainfo
from segplug_datasets.mapping import choose_classes as choose_classes
from segplug_datasets.multilabel import ClassFiles, ReadBits, multilabel_spec
from segplug_datasets.side_fields import FieldFiles, ReadLabels, ReadNumbers, by_field


class ListedFiles(Labelled):
    """Images and their label files, if any, from a list.

    Args:
        files: (name, image, label file or None) of each sample.
        labels: Meaning of the values in the label files.
        colors: RGB to class id, for label files in colour.
    """

    def __init__(
        self,
        files: Sequence[tuple[str, str, str | None]],
        labels: LabelSpec,
        colors: Mapping[Color, int] | None = None,
    ) -> None:
        self.labels = labels
        self._reader = LabelReader(labels, colors)
        self._files = FileList(files)

    @property
    def files(self) -> Sequence[tuple[str, str, str | None]]:
        """(name, image, label file or None) of each sample."""
        return self._files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Sample:
        name, path, mask_path = self._files[index]
        sample = Sample(image=image.read(path), meta={"path": path, "name": name})
        if mask_path is not None:
            self._annotate(sample, mask_path)
            self._add_objects(sample, mask_path)
            sample.meta["mask_path"] = mask_path
        return sample

    def _annotate(self, sample: Sample, mask_path: str) -> None:
        """Add the contents of the label file."""
        sample["seg"] = LabelMap(self._reader.read(sample, mask_path))

    def _add_objects(self, sample: Sample, mask_path: str) -> None:
        """Add the objects of a file beside the label file; there are none here."""


class PairedFiles(ListedFiles):
    """Images of one folder and their label files, if any, in another.

    Args:
        images: Folder of images, searched recursively.
        masks: Folder of label files with the same layout; None for images without annotations.
        labels: Meaning of the values in the label files.
        image_suffix: Suffixes of image file names; the part before is the sample's name.
        mask_suffix: Suffix of the label file names.
        split: Text file with one name per line, or with an image and its label file, whose names may then differ and
            which are searched next to the list, in ``root`` and in the two folders; all files when None.
        colors: RGB to class id, for label files in colour.
        indices: The first N samples for N, the last N for -N, those listed for a list; all when None.
        root: Additional folder to search for listed files.

    Raises:
        DataError: When a folder is missing or empty, or files are unpaired; the message names them.
        UsageError: When ``indices`` names a sample that does not exist.
    """

    def __init__(
        self,
        images: Path,
        masks: Path | None,
        labels: LabelSpec,
        image_suffix: str | Sequence[str] = IMAGE_SUFFIXES,
        mask_suffix: str = ".png",
        split: Path | None = None,
        colors: Mapping[Color, int] | None = None,
        indices: int | Sequence[int] | None = None,
        root: Path | None = None,
    ) -> None:
        suffixes = (image_suffix,) if isinstance(image_suffix, str) else tuple(image_suffix)
        self.folders = Folders(images, masks, suffixes, mask_suffix, split, labels, dict(colors or {}))
        with self.folders.named_in_errors():
            lines = None if split is None else read_list(split, partial(_is_name, images, suffixes))
            pairs = as_pairs(lines, split) if lines and split else None
            if pairs is not None and split is not None:
                files = _listed_pairs(pairs, self.folders, split, root)
            else:
                files = _named_pairs(self.folders, lines)
        super().__init__(take(files, indices), labels, colors)


def _is_name(folder: Path, suffixes: Sequence[str], line: str) -> bool:
    """Whether a line of a list is the name of an image in a folder."""
    return any(NamedFiles(folder).find(f"{line}{suffix}") for suffix in ("", *suffixes))


def _named_pairs(folders: Folders, lines: list[str] | None) -> list[tuple[str, str, str | None]]:
    """Return (name, image, label file) of all files, or of the listed ones."""
    images, masks, mask_suffix = folders.images, folders.masks, folders.mask_suffix
    found = find_files(images, folders.image_suffixes, others_than=folders.label_files())
    truths = None if masks is None else find_files(masks, (mask_suffix,))
    names = sorted(found) if lines is None else folders.names(lines, found)
    require_files(names, found, f"listed in {folders.split} but not found in {images}")
    if truths is not None:
        require_files(names, truths, f"without a mask NAME{mask_suffix} in {masks}")
        if lines is None:
            require_files(sorted(truths), found, f"with a mask in {masks} but no image in {images}")
    return [(name, found[name], truths[name] if truths is not None else None) for name in names]


def _listed_pairs(
    pairs: Sequence[tuple[str, str]], folders: Folders, split: Path, root: Path | None
) -> list[tuple[str, str, str | None]]:
    """Return (name, image, label file) from a list of pairs."""
    images, masks = folders.images, folders.masks
    firsts = _located([first for first, _ in pairs], (images, root, masks, split.parent), split)
    names = [without_suffix(clean(first).lstrip("/"), folders.image_suffixes) for first, _ in pairs]
    if masks is None:
        return [(name, first, None) for name, first in zip(names, firsts)]
    seconds = _located([second for _, second in pairs], (masks, root, images, split.parent), split)
    own = next((first for first, second in zip(firsts, seconds) if first == second), None)
    if own:
        raise DataError(f"listed in {split} as its own label file", own)
    return list(zip(names, firsts, seconds))


def _located(names: Sequence[str], places: Sequence[Path | None], split: Path) -> list[str]:
    """Return the paths of listed files, each in the first of the places that has it."""
    searched = [NamedFiles(place) for place in dict.fromkeys(places) if place is not None]
    found = {name: path for name in dict.fromkeys(names) if (path := locate(name, searched))}
    shown = ", ".join(str(files.folder) for files in searched)
    require_files(names, found, f"listed in {split} but not found in {shown}")
    return [found[name] for name in names]


class LabelFolder(TypedDict, total=False):
    """A folder of label files with its own classes, given by arguments of `FolderDataset`, and its weights."""

    path: Required[FileName]
    classes: Sequence[str]
    palette: Sequence[Color] | None
    ignore: Sequence[int]
    offset: int
    values: Mapping[int, int] | None
    ignore_colors: Sequence[Color]
    metainfo: Metainfo | None
    background: str | None
    mask_suffix: str
    weights: FileName


CLASSES = ("background", "foreground")
"""Default classes of a folder."""


class FolderDataset(PairedFiles):
    """A folder of images and a folder of masks.

    Several named folders of masks, one for each head of a model, become one field each::

        masks: {seg: masks, parts: {path: parts_masks, classes: [none, head, torso], weights: parts_weights}}

    A folder without its own classes has those of the data set. ``specs`` has the label specification of each.

    With task ``multilabel``, ``masks`` is a folder for each class, of files with 0 (no), 1 (yes) and ignored values, or
    with other ``values``; or it is one folder of files in which bit k, of value 2 ** k, is class k.

    Args:
        images: Folder of images, searched recursively.
        masks: Folder of label files with the same names; several by field name, one of them ``seg``; None when there
            are no annotations.
        classes: Class names; the position is the class id.
        palette: One RGB colour per class; when given, masks may contain these colours instead of ids.
        ignore: Values of the label files that are ignored.
        offset: Subtracted from a value to give the class id; smaller values are ignored.
        values: File value to class id, for sparse ids: ``{0: 0, 255: 1}`` for black and white masks.
        ignore_colors: Colours of colour masks that are ignored.
        split: Text file with one name per line, or an image and its label file, relative to ``data_root``; all files
            when None.
        image_suffix: Suffix of the image file names, ``.jpg`` or ``_leftImg8bit.png``; the usual formats when None.
        mask_suffix: Suffix of the label file names.
        data_root: Folder to which the other paths are relative.
        metainfo: Classes to select, rename or merge; all when None.
        weights: Folder of loss weights per pixel: the field ``weight``; several by field name. The weights of a label
            folder NAME are the field ``NAME_weight``.
        weight_scale: Weight per unit of the value in an image file; by default 255 is weight 1. Arrays (``.npy``)
            contain the weights themselves.
        weight_suffix: Suffix of the weight file names.
        depth: Folder of depth files: the field ``depth``.
        depth_scale: Metres per unit of the value in an image file; arrays are in metres.
        depth_suffix: Suffix of the depth file names.
        indices: The first N samples for N, the last N for -N, those listed for a list; all when None.
        background: The class of all values, or colours, that are neither a class nor ignored; errors when None.
        task: ``multiclass``, ``binary`` (two classes) or ``multilabel``; None is the config's ``data.task``, or else
            ``multiclass``.

    Raises:
        DataError: When a folder is missing or empty, or files are unpaired.
        UsageError: When the label arguments contradict each other.
    """

    @staticmethod
    def conformance(folder: Path) -> list[dict[str, Any]]:
        """Write a tiny data set into ``folder`` and return the arguments that read it."""
        for masks in ("masks", "parts"):
            write_example(folder / "images", folder / masks, (0, 1, IGNORE), ".jpg", ".png")
        plain = {"data_root": str(folder), "images": "images", "masks": "masks"}
        each = {"masks": {"crack": "masks", "rust": "parts"}, "task": "multilabel"}
        several = {"masks": {"seg": "masks", "parts": "parts"}, "weights": "masks", "depth": "masks"}
        merged = {"metainfo": {"classes": {"all": ["background", "foreground"]}}}
        return [plain, plain | several, plain | merged, plain | each]

    def __init__(
        self,
        images: str | Path,
        masks: str | Path | Mapping[str, FileName | LabelFolder] | None = None,
        classes: Sequence[str] = CLASSES,
        palette: Sequence[Color] | None = None,
        ignore: Sequence[int] = (IGNORE,),
        offset: int = 0,
        values: Mapping[int, int] | None = None,
        ignore_colors: Sequence[Color] = (),
        split: str | Path | None = None,
        image_suffix: str | None = None,
        mask_suffix: str = ".png",
        data_root: str | Path | None = None,
        metainfo: Metainfo | None = None,
        weights: FileName | Mapping[str, FileName] | None = None,
        weight_scale: Positive = 1 / 255,
        weight_suffix: str = ".png",
        depth: str | Path | None = None,
        depth_scale: Positive = 0.001,
        depth_suffix: str = ".png",
        indices: int | Sequence[int] | None = None,
        background: str | None = None,
        task: Task | None = None,
    ) -> None:
        root = resolve(data_root)
        self.data_root = str(root)
        whole = LabelArguments(
            classes=classes,
            palette=palette,
            ignore=ignore,
            offset=offset,
            values=values,
            ignore_colors=ignore_colors,
            metainfo=metainfo,
            background=background,
            task=task,
        )
        planes, labels = (masks, multilabel_spec(whole, masks, CLASSES)) if task == "multilabel" else (None, None)
        masks = None if labels else masks
        folders = {name: _label_folder(given) for name, given in by_field(masks, SEG).items()}
        if folders and SEG not in folders:
            hint = "set task: multilabel if there is one folder per class"
            there = ", ".join(folders)
            raise UsageError(f"one of the label folders in 'masks' must be called {SEG!r}; there are {there}; {hint}")
        readers = {name: _reader(whole, folder) for name, folder in folders.items()}
        main = folders.pop(SEG, None)
        reader = readers.get(SEG) or (LabelReader(labels) if labels else label_reader(whole))
        super().__init__(
            images=resolve(root, images),
            masks=resolve(root, main["path"]) if main else None,
            labels=reader.labels,
            image_suffix=image_suffix or IMAGE_SUFFIXES,
            mask_suffix=main.get("mask_suffix", mask_suffix) if main else mask_suffix,
            split=resolve(root, split) if split is not None else None,
            colors=reader.colors,
            indices=indices,
            root=root,
        )
        self.specs = {name: reader.labels for name, reader in readers.items()} or ({SEG: labels} if labels else {})
        self._side_fields: list[FieldFiles | ClassFiles] = []
        self._side_fields += [self._field(name, root, readers[name], folders[name], mask_suffix) for name in folders]
        weighted = by_field(weights, WEIGHT) | _own_weights({SEG: main, **folders} if main else folders)
        numbers: list[tuple[str, str | Path, str, ReadNumbers]] = [
            (name, place, weight_suffix, ReadNumbers(WeightMap, weight_scale)) for name, place in weighted.items()
        ]
        if depth is not None:
            numbers.append(("depth", depth, depth_suffix, ReadNumbers(DepthMap, depth_scale)))
        names = [name for name, _, _ in self._files]
        for field, place, suffix, read in numbers:
            self._side_fields.append(FieldFiles(field, resolve(root, place), suffix, names, read))
        if labels and planes is not None:
            self._side_fields.insert(0, self._classes(labels, planes, root, names, mask_suffix, values))

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        for field in self._side_fields:
            field.add(sample, index)
        return sample

    @staticmethod
    def _classes(
        labels: LabelSpec,
        given: str | Path | Mapping[str, FileName | LabelFolder],
        root: Path,
        names: Sequence[str],
        suffix: str,
        values: Mapping[int, int] | None,
    ) -> FieldFiles | ClassFiles:
        """Return the label files of task multilabel: folders per class, or one of files with a bit per class."""
        if isinstance(given, Mapping):
            folders = {name: resolve(root, str(place)) for name, place in given.items()}
            return ClassFiles(labels, folders, suffix, names, values)
        return FieldFiles(SEG, resolve(root, given), suffix, names, ReadBits(labels))

    def _field(self, field: str, root: Path, reader: LabelReader, folder: LabelFolder, mask_suffix: str) -> FieldFiles:
        names, suffix = [name for name, _, _ in self._files], folder.get("mask_suffix", mask_suffix)
        return FieldFiles(field, resolve(root, folder["path"]), suffix, names, ReadLabels(reader))


SEG, WEIGHT = "seg", "weight"
"""Field names of the default label map and of its weights."""


def _label_folder(given: str | Path | LabelFolder) -> LabelFolder:
    return LabelFolder(path=str(given)) if isinstance(given, str | Path) else given


def _reader(whole: LabelArguments, folder: LabelFolder) -> LabelReader:
    """Return the reader of a label folder: by its own arguments if it has classes, else merged with the set's."""
    own = {key: value for key, value in folder.items() if key in LabelArguments.__annotations__}
    return label_reader(cast(LabelArguments, own if "classes" in own else {**whole, **own}))


def _own_weights(folders: Mapping[str, LabelFolder]) -> dict[str, str]:
    """Return the weight folders of label folders, by field."""
    named = {name: folder["weights"] for name, folder in folders.items() if "weights" in folder}
    return {WEIGHT if name == SEG else f"{name}_{WEIGHT}": str(place) for name, place in named.items()}


class DataPrefix(TypedDict, total=False):
    """Folders under ``data_root``: of the images, and of the label files (none for a set without annotations)."""

    img_path: FileName
    seg_map_path: FileName | None


class BaseSegArguments(TypedDict, total=False):
    """The arguments of `BaseSegDataset` after ``data_prefix``."""

    ann_file: FileName
    img_suffix: str | None
    seg_map_suffix: str | None
    metainfo: Metainfo | None
    reduce_zero_label: bool | None
    indices: int | Sequence[int] | None


class BaseSegDataset(PairedFiles):
    """Base of published data sets: a subclass defines class names, colours, folders and suffixes.

    Args:
        data_root: Root folder of the data set.
        data_prefix: Folders under ``data_root``; the training set's by default.
        ann_file: Text file with one name per line, or an image and its label file, under ``data_root``; all files
            when empty.
        img_suffix: Suffix of the image file names.
        seg_map_suffix: Suffix of the label file names.
        metainfo: Classes to select, rename or merge; all when None.
        reduce_zero_label: Whether classes start at 1 in the files and 0 is ignored; None is as published.
        indices: The first N samples for N, the last N for -N, those listed for a list; all when None.

    Raises:
        DataError: When a folder is missing or empty, or files are unpaired.
        UsageError: When ``metainfo`` has a class that the data set does not have.
    """

    spec: ClassVar[LabelSpec]
    root: ClassVar[str]
    prefix: ClassVar[DataPrefix]
    suffixes: ClassVar[tuple[str, str]] = (".jpg", ".png")

    @classmethod
    def conformance(cls, folder: Path) -> list[dict[str, Any]]:
        """Write a tiny data set into ``folder`` and return the arguments that read it."""
        values = (cls.spec.offset, cls.spec.offset + 1, *cls.spec.ignore)
        write_example(
            folder / cls.prefix["img_path"], folder / (cls.prefix["seg_map_path"] or ""), values, *cls.suffixes
        )
        return [{"data_root": str(folder)}]

    def __init__(
        self,
        data_root: str | Path | None = None,
        data_prefix: DataPrefix | None = None,
        ann_file: FileName = "",
        img_suffix: str | None = None,
        seg_map_suffix: str | None = None,
        metainfo: Metainfo | None = None,
        reduce_zero_label: bool | None = None,
        indices: int | Sequence[int] | None = None,
    ) -> None:
        root = resolve(data_root or self.root)
        self.data_root = str(root)
        prefix = data_prefix or self.prefix
        spec = self.spec if reduce_zero_label is None else replace(self.spec, offset=int(reduce_zero_label))
        masks = prefix.get("seg_map_path")
        super().__init__(
            images=resolve(root, prefix.get("img_path", "")),
            masks=resolve(root, masks) if masks else None,
            labels=choose_classes(spec, metainfo or {}),
            image_suffix=img_suffix or self.suffixes[0],
            mask_suffix=seg_map_suffix or self.suffixes[1],
            split=resolve(root, ann_file) if ann_file else None,
            indices=indices,
            root=root,
        )
