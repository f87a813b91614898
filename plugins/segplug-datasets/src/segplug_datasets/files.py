"""Data sets that are folders of image files, with or without label files beside them.

    FolderDataset(images="photos", masks="labels", classes=["background", "crack"])

Images and masks belong together by name: the path inside their folder, without the suffix.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, TypedDict

import numpy as np

from segkernel import image
from segkernel.errors import DataError, UsageError, suggest
from segkernel.interfaces.data import IGNORE, Color, LabelSpec
from segkernel.sample import LabelMap, Sample
from segplug_datasets.example import write_example

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


class ListedFiles:
    """Images and, where there are any, their label files, one by one.

    Args:
        files: (name, image, label file or None) of each sample.
        labels: What the values of the label files mean.
        colors: RGB to class id, for label files that hold colours.
    """

    def __init__(
        self,
        files: Sequence[tuple[str, str, str | None]],
        labels: LabelSpec,
        colors: Mapping[Color, int] | None = None,
    ) -> None:
        self.labels = labels
        self._colors = dict(colors or {})
        self._files = list(files)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.labels.classes

    @property
    def palette(self) -> tuple[Color, ...]:
        """One RGB colour per class."""
        return self.labels.palette

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Sample:
        name, path, mask_path = self._files[index]
        sample = Sample(image=image.read(path), meta={"path": path, "name": name})
        if mask_path is not None:
            self._annotate(sample, mask_path)
            sample.meta["mask_path"] = mask_path
        return sample

    def _annotate(self, sample: Sample, mask_path: str) -> None:
        """Add what the label file holds."""
        path, raw = sample.meta["path"], read_annotation(sample, mask_path)
        try:
            labels = self.labels.encode(raw) if raw.ndim == 2 else self._from_colors(raw)
        except DataError as error:
            raise DataError(f"{error}\n    the mask of {path}", mask_path) from None
        sample["seg"] = LabelMap(labels)

    def _from_colors(self, raw: np.ndarray) -> np.ndarray:
        if not self._colors:
            if (raw == raw[..., :1]).all():  # a grey picture saved in colour
                return self.labels.encode(raw[..., 0])
            raise DataError("the mask holds colours: say which colour is which class ('palette'), or save class ids")
        codes = _codes(raw)
        known = {_codes(np.array(color)).item(): class_id for color, class_id in self._colors.items()}
        values, places = np.unique(codes, return_inverse=True)
        unknown = [v for v in values.tolist() if v not in known]
        if unknown:
            shown = ", ".join(str((v >> 16, v >> 8 & 255, v & 255)) for v in unknown[:5])
            raise DataError(f"colours {shown} are not in the palette; list those to be ignored in 'ignore_colors'")
        ids = np.array([known[v] for v in values.tolist()], np.uint8)
        return ids[places].reshape(codes.shape)


@dataclass(frozen=True)
class Folders:
    """Where `PairedFiles` looks for its files; also the attribute ``folders`` of the error when they do not fit."""

    images: Path
    masks: Path | None
    image_suffixes: tuple[str, ...]
    mask_suffix: str
    split: Path | None
    labels: LabelSpec
    colors: dict[Color, int]


class PairedFiles(ListedFiles):
    """Images of one folder and, where there are any, their label files in another.

    Args:
        images: Folder of images; folders inside it are searched too.
        masks: Folder of label files in the same arrangement; None for images without annotations.
        labels: What the values of the label files mean.
        image_suffix: Ends of image file names; what precedes it is the sample's name.
        mask_suffix: What follows the name in the label file's.
        split: Text file with one name per line; all files when None.
        colors: RGB to class id, for label files that hold colours.

    Raises:
        DataError: When a folder is missing or empty, or files have no partner; the message names them.
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
    ) -> None:
        suffixes = (image_suffix,) if isinstance(image_suffix, str) else tuple(image_suffix)
        self.folders = Folders(images, masks, suffixes, mask_suffix, split, labels, dict(colors or {}))
        try:
            files = _pair(self.folders)
        except DataError as error:
            error.folders = self.folders  # type: ignore[attr-defined]  # what the mask doctor looks at instead
            raise
        super().__init__(files, labels, colors)


def _pair(folders: Folders) -> list[tuple[str, str, str | None]]:
    """Return (name, image, label file or None) of the samples of two folders, or refuse what has no partner."""
    images, masks, split = folders.images, folders.masks, folders.split
    suffixes, mask_suffix = folders.image_suffixes, folders.mask_suffix
    found = find_files(images, suffixes)
    truths = None if masks is None else find_files(masks, (mask_suffix,))
    names = sorted(found) if split is None else read_split(split, (*suffixes, mask_suffix))
    refuse_missing(names, found, f"listed in {split} but not found in {images}")
    if truths is not None:
        refuse_missing(names, truths, f"without a mask NAME{mask_suffix} in {masks}")
        if split is None:
            refuse_missing(sorted(truths), found, f"with a mask in {masks} but no image in {images}")
    return [(name, found[name], truths[name] if truths is not None else None) for name in names]


class FolderDataset(PairedFiles):
    """A folder of images and a folder of masks, with no code.

    Args:
        images: Folder of images, searched with the folders inside it.
        masks: Folder of label files of the same names; None when there are no annotations.
        classes: Names; the position is the class id.
        palette: One RGB colour per class; when given, masks may hold these colours instead of ids.
        ignore: Values of the label files that do not count.
        offset: Subtracted from a value to give the class id; smaller values do not count.
        values: File value to class id, where ids are sparse: ``{0: 0, 255: 1}`` for black and white masks.
        ignore_colors: Colours of colour masks that do not count.
        split: Text file with one name per line, relative to ``data_root``; all files when None.
        image_suffix: End of the image names, ``.jpg`` or ``_leftImg8bit.png``; the usual formats when None.
        mask_suffix: What follows the name in the label file's.
        data_root: Folder to which the other paths are relative.

    Raises:
        DataError: When a folder is missing or empty, or files have no partner.
        UsageError: When the label arguments contradict each other.
    """

    @staticmethod
    def conformance(folder: Path) -> list[dict[str, Any]]:
        """Write a tiny data set into ``folder`` and return the arguments that read it."""
        write_example(folder / "images", folder / "masks", (0, 1, IGNORE), ".jpg", ".png")
        return [{"data_root": str(folder), "images": "images", "masks": "masks"}]

    def __init__(
        self,
        images: str | Path,
        masks: str | Path | None = None,
        classes: Sequence[str] = ("background", "foreground"),
        palette: Sequence[Color] | None = None,
        ignore: Sequence[int] = (IGNORE,),
        offset: int = 0,
        values: Mapping[int, int] | None = None,
        ignore_colors: Sequence[Color] = (),
        split: str | Path | None = None,
        image_suffix: str | None = None,
        mask_suffix: str = ".png",
        data_root: str | Path | None = None,
    ) -> None:
        root = Path(data_root or "")
        self.data_root = str(root)
        labels = LabelSpec(tuple(classes), tuple(palette or ()), tuple(ignore), offset, values)
        colors = {_color(color): i for i, color in enumerate(palette or ())}
        if palette and len(colors) < len(palette):
            raise UsageError("two classes have the same colour in 'palette'")
        super().__init__(
            root / images,
            root / masks if masks is not None else None,
            labels,
            image_suffix or IMAGE_SUFFIXES,
            mask_suffix,
            root / split if split is not None else None,
            {**colors, **{_color(color): IGNORE for color in ignore_colors}},
        )


class DataPrefix(TypedDict, total=False):
    """Folders under ``data_root``: of the images, and of the label files (none for a set without annotations)."""

    img_path: str
    seg_map_path: str | None


class Metainfo(TypedDict, total=False):
    """Which of a data set's classes count, in this order, and a colour for each; pixels of others do not count."""

    classes: Sequence[str]
    palette: Sequence[Color]


class BaseSegDataset(PairedFiles):
    """A published data set: names, colours, folders and suffixes are facts that a subclass states.

    Args:
        data_root: Where the data set lies.
        data_prefix: Folders under it; the training set's when not given.
        ann_file: Text file with one name per line, under ``data_root``; all files when empty.
        img_suffix: End of the image names.
        seg_map_suffix: What follows the name in the label file's.
        metainfo: Some of the classes instead of all.
        reduce_zero_label: Whether classes start at 1 in the files and 0 does not count; as published when None.

    Raises:
        DataError: When a folder is missing or empty, or files have no partner.
        UsageError: When ``metainfo`` names a class that the data set does not have.
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
        ann_file: str = "",
        img_suffix: str | None = None,
        seg_map_suffix: str | None = None,
        metainfo: Metainfo | None = None,
        reduce_zero_label: bool | None = None,
    ) -> None:
        root = Path(data_root or self.root)
        self.data_root = str(root)
        prefix = data_prefix or self.prefix
        spec = self.spec if reduce_zero_label is None else replace(self.spec, offset=int(reduce_zero_label))
        masks = prefix.get("seg_map_path")
        super().__init__(
            root / prefix.get("img_path", ""),
            root / masks if masks else None,
            choose_classes(spec, metainfo or {}),
            img_suffix or self.suffixes[0],
            seg_map_suffix or self.suffixes[1],
            root / ann_file if ann_file else None,
        )


def choose_classes(labels: LabelSpec, metainfo: Metainfo) -> LabelSpec:
    """Return the labels of the same files with only the classes that ``metainfo`` names; others become `IGNORE`.

    Raises:
        UsageError: When a name is unknown or stands there twice.
    """
    wanted = tuple(metainfo.get("classes") or labels.classes)
    unknown = [name for name in wanted if name not in labels.classes]
    if unknown:
        raise UsageError(f"no class is called {unknown[0]!r}: {suggest(unknown[0], labels.classes)}")
    if len(set(wanted)) < len(wanted):
        raise UsageError(f"metainfo names a class twice: {next(name for name in wanted if wanted.count(name) > 1)!r}")
    colors = dict(zip(labels.classes, labels.palette))
    palette = tuple(metainfo.get("palette") or (colors[name] for name in wanted))
    if wanted == labels.classes:
        return replace(labels, palette=palette)
    place = {labels.classes.index(name): new for new, name in enumerate(wanted)}
    ids = labels.values or {old + labels.offset: old for old in range(len(labels.classes))}
    values = {value: place.get(old, IGNORE) for value, old in ids.items()}
    return LabelSpec(wanted, palette, (*labels.ignore, *range(labels.offset)), values=values)


def read_annotation(sample: Sample, path: str) -> np.ndarray:
    """Return the raw values of the annotation file of a sample, which must have the image's size.

    Raises:
        DataError: When it has not, or cannot be read.
    """
    raw = image.read_mask(path)
    if raw.shape[:2] != sample.size:
        there, here = _by(raw.shape), _by(sample.size)
        raise DataError(f"a mask of {there} for an image of {here} pixels: {sample.meta['path']}", path)
    return raw


def find_files(folder: Path, suffixes: Sequence[str]) -> dict[str, str]:
    """Return name to path of the files under ``folder`` that end in one of ``suffixes``."""
    if not folder.is_dir():
        raise DataError("no such folder" if not folder.exists() else "not a folder", folder)
    found: dict[str, str] = {}
    others: set[str] = set()
    start = len(os.path.join(folder, ""))
    for path in _walk(folder):
        suffix = next((s for s in suffixes if path.lower().endswith(s.lower())), None)
        if suffix is None:
            others.add(os.path.splitext(path)[1])
            continue
        name = path[start : -len(suffix)].replace(os.sep, "/")
        if name in found:
            raise DataError(f"this and {found[name]} have one name: say which one with the suffix", path)
        found[name] = path
    if not found:
        seen = f"; it holds {', '.join(sorted(others - {''})[:5])} files" if others - {""} else ""
        raise DataError(f"no file here ends in {' or '.join(suffixes)}{seen}", folder)
    return found


def _walk(folder: Path) -> Iterable[str]:
    for place, _, files in os.walk(folder, followlinks=True):
        yield from (os.path.join(place, file) for file in files if not file.startswith("."))


def read_split(path: Path, suffixes: Sequence[str]) -> list[str]:
    """Return the names of a text file, one per line, without the suffixes that may stand there."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"the list of names cannot be read: {error.strerror or error}", path) from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise DataError("the list of names is empty", path)
    return [next((name[: -len(s)] for s in suffixes if name.endswith(s)), name) for name in names]


def refuse_missing(names: Sequence[str], there: Container[str], what: str) -> None:
    """Raise a `DataError` that lists the names that are not ``there``, if any."""
    missing = [name for name in names if name not in there]
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise DataError(f"{len(missing)} of {len(names)} names {what}: {shown}")


def _color(color: Sequence[int]) -> Color:
    red, green, blue = (int(value) for value in color)
    return red, green, blue


def _codes(colors: np.ndarray) -> np.ndarray:
    red, green, blue = (colors[..., channel].astype(np.int64) for channel in range(3))
    return red << 16 | green << 8 | blue


def _by(shape: Sequence[int]) -> str:
    return f"{shape[0]} x {shape[1]}"
