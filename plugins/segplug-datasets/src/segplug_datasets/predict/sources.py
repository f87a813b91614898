"""What is predicted: files, folders, patterns, lists, archives and arrays, as a list of single inputs with names."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from segkernel.errors import DataError, UsageError
from segplug_datasets.listing import IMAGE_SUFFIXES, NamedFiles, locate, read_list
from segplug_datasets.predict.archives import Archive, Member, is_archive

Image = str | Path | np.ndarray
"""Inputs of `segkernel.Predictor.read`."""
Source = Path | np.ndarray | Member
"""One input: an image, a volume, a video, a camera, or a file in an archive."""

SUFFIXES = (*IMAGE_SUFFIXES, ".ppm", ".jp2")
"""Suffixes of images in a folder or archive; without any such file `DATA_SUFFIXES`, then `VIDEO_SUFFIXES`."""
DATA_SUFFIXES = (".npy", ".npz", ".nii", ".nii.gz")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
CAMERA = re.compile(r"camera:(\d{1,3})")


def collect_images(inputs: Image | Iterable[Image]) -> list[Source]:
    """Return the images of a path, array, list, folder, glob pattern, ``.txt`` list, or zip or tar archive.

    Raises:
        DataError: When a folder or an archive has no images, a pattern matches none, or an archive is damaged or a
            decompression bomb.
        UsageError: When it is none of these.
    """
    if isinstance(inputs, np.ndarray | Member):
        return [inputs]
    if isinstance(inputs, str | Path):
        if not str(inputs):
            raise UsageError("an empty string is not a path of an image")
        return list(_collect_path(Path(inputs).expanduser()))
    if isinstance(inputs, Iterable) and not (isinstance(inputs, bytes | Mapping) or hasattr(inputs, "shape")):
        return [one for entry in inputs for one in collect_images(entry)]
    raise UsageError(f"an image must be a path or an array (H, W, 3) uint8 RGB, not a {type(inputs).__name__}")


def is_video(source: object) -> bool:
    """Whether a source is a video file or a camera, ``camera:0``."""
    path = str(source) if isinstance(source, Path) else ""
    return path.lower().endswith(VIDEO_SUFFIXES) or CAMERA.fullmatch(path) is not None


def _collect_path(path: Path) -> Sequence[Source]:
    if path.is_dir():
        files = {entry.name: entry for entry in sorted(path.iterdir()) if not entry.name.startswith(".")}
        return [files[name] for name in _chosen(list(files), path)]
    if path.is_file() and is_archive(path.name):
        archive = Archive(path)
        members = {member.name: member for member in archive.members()}
        return [members[name] for name in _chosen(list(members), path)]
    if path.is_file() and path.suffix.lower() == ".txt":
        siblings = NamedFiles(path.parent)
        lines = read_list(path, lambda line: locate(line, [siblings]) is not None)
        return [Path(locate(line, [siblings]) or path.parent / line) for line in lines]
    if not path.exists() and glob.has_magic(str(path)):
        matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True) if Path(match).is_file())
        if not matches:
            raise DataError("no file matches this pattern", path)
        return matches
    return [path]


def _chosen(names: Sequence[str], place: Path) -> list[str]:
    """Return the names of the images, else of arrays and volumes, else of videos."""
    kinds = (SUFFIXES, DATA_SUFFIXES, () if place.is_file() else VIDEO_SUFFIXES)
    for suffixes in kinds:
        if found := [name for name in names if name.lower().endswith(suffixes)]:
            return found
    what = "archive" if place.is_file() else "folder"
    raise DataError(f"no images in this {what} ({', '.join(suffix for kind in kinds for suffix in kind)})", place)


def output_names(sources: Sequence[Source]) -> list[str]:
    """Return unique output names from file names: a and a_2 for a.jpg and a.png."""
    names: dict[str, None] = {}
    for index, source in enumerate(sources):
        stem, count = _stem(source, index), 1
        name = stem
        while name in names:
            count += 1
            name = f"{stem}_{count}"
        names[name] = None
    return list(names)


def _stem(source: Source, index: int) -> str:
    if isinstance(source, np.ndarray):
        return f"{index:06d}"
    name = PurePosixPath(source.name).name if isinstance(source, Member) else source.name
    return Path(name.removesuffix(".gz")).stem.replace(":", "_")


def pairs(firsts: Sequence[Source], seconds: Sequence[Source]) -> list[tuple[Any, Any]]:
    """Return pairs of first and second images: files are matched by name, arrays and single files by order.

    Raises:
        DataError: When an image is unpaired.
    """
    named = [not isinstance(image, np.ndarray) for image in (*firsts, *seconds)]
    if not all(named) or len(firsts) == len(seconds) == 1:
        if len(firsts) != len(seconds):
            raise DataError(f"{len(firsts)} first and {len(seconds)} second images: the numbers must be equal")
        return list(zip(firsts, seconds))
    by_name, names = dict(zip(output_names(seconds), seconds)), output_names(firsts)
    missing = [first for name, first in zip(names, firsts) if name not in by_name]
    if missing or len(firsts) != len(seconds):
        unpaired = missing[0] if missing else f"{len(seconds) - len(firsts)} second images"
        raise DataError("is unpaired: first and second images need the same names", str(unpaired))
    return [(first, by_name[name]) for name, first in zip(names, firsts)]
