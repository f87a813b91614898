"""Annotation files in a folder: COCO, labelme, CVAT, Label Studio, YOLO, as specifications of their data sets."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from segkernel.errors import DataError, SegKernelError, UsageError
from segplug_datasets.doctor.parts import open_part
from segplug_datasets.listing import IMAGE_SUFFIXES, read_text, walk
from segplug_datasets.own_data.layout import ALL
from segplug_datasets.own_data.names import split_of

_SNIFFED = 4096
_SAMPLED = 5

Spec = dict[str, Any]
Found = tuple[str, str, Spec]
"""Name of the set, the file or folder of annotations, and the data set that reads it."""


def find_annotations(folder: Path, chosen: str | None = None) -> dict[str, Spec]:
    """Return the sets that the annotation files of a folder describe; empty without such files.

    Args:
        folder: The folder; its subfolders are searched too.
        chosen: The file, or the folder of files, to use; under ``folder``, or a path.

    Raises:
        UsageError: When several files describe one set.
        DataError: When ``chosen`` is not an annotation file.
    """
    files = [Path(path) for path in walk(folder)]
    place = None
    if chosen is not None:
        place = folder / chosen if (folder / chosen).exists() else Path(chosen)
        files += [place] if place.is_file() and place not in files else []
    image_files = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    sets: dict[str, tuple[str, Spec]] = {}
    for name, where, spec in _descriptions(folder, files, image_files):
        if place is not None and place.resolve() not in (Path(where).resolve(), *Path(where).resolve().parents):
            continue
        if name in sets and sets[name][1]["type"] == spec["type"]:
            raise UsageError(f"several files annotate these images; choose with --labels {sets[name][0]} or {where}")
        sets.setdefault(name, (where, spec))
    kinds = {spec["type"] for _, spec in sets.values()}
    if len(kinds) > 1:
        shown = " or ".join(sorted(where for where, _ in sets.values()))
        raise UsageError(f"annotations of several tools: choose with --labels {shown}")
    if place is not None and not sets:
        raise DataError("not annotations of COCO, labelme, CVAT, Label Studio or YOLO", place)
    if not sets and (text := next((path for path in files if path.suffix == ".txt" and _is_polygons(path)), None)):
        inside = os.path.relpath(image_files[0].parent, folder) if image_files else "images"
        lines = f"'train: {inside}' and 'names: [cat, dog]'"
        raise DataError(
            f"YOLO labels without a data.yaml that lists the classes: write {folder}/data.yaml with {lines}", text
        )
    named = {name: spec for name, (_, spec) in sets.items()}
    return {ALL: next(iter(named.values()))} if len(named) == 1 else named


def _descriptions(folder: Path, files: Sequence[Path], image_files: Sequence[Path]) -> Iterator[Found]:
    texts: dict[str, list[Path]] = {suffix: [] for suffix in (".yaml", ".yml", ".json", ".xml")}
    for path in files:
        if path.suffix.lower() in texts:
            texts[path.suffix.lower()].append(path)
    if not image_files:
        return
    yield from _labelme(folder, texts[".json"], image_files)
    for path in texts[".json"]:
        yield from _coco_or_label_studio(folder, path, image_files)
    for path in texts[".xml"]:
        if b"<annotations>" in _start(path):
            images = str(_common(image_files))
            yield _set_of(folder, path), str(path), {"type": "CvatDataset", "ann_file": str(path), "images": images}
    for path in [*texts[".yaml"], *texts[".yml"]]:
        yield from _yolo(folder, path, files)


def _labelme(folder: Path, paths: Sequence[Path], image_files: Sequence[Path]) -> Iterator[Found]:
    by_stem = {path.stem: path for path in image_files}
    for place in dict.fromkeys(path.parent for path in paths):
        inside = [path for path in paths if path.parent == place]
        if b'"shapes"' not in _start(inside[0], 1 << 16) or not isinstance(_json(inside[0]), dict):
            continue
        near = {path.stem: path for path in image_files if path.parent == place}
        found = [(near.get(path.stem) or by_stem.get(path.stem)) for path in inside]
        images = {image_file.parent for image_file in found if image_file}
        if len(images) == 1:
            spec = {"type": "LabelmeDataset", "images": str(images.pop())}
            spec |= {} if spec["images"] == str(place) else {"annotations": str(place)}
            yield _set_of(folder, place / "any"), str(place), spec


def _coco_or_label_studio(folder: Path, path: Path, image_files: Sequence[Path]) -> Iterator[Found]:
    start = _start(path).lstrip()
    if start.startswith(b"[") and (b'"data"' in _start(path, 1 << 20)):
        tasks = _json(path)
        if isinstance(tasks, list) and tasks and isinstance(tasks[0], dict) and "annotations" in tasks[0]:
            spec = {"type": "LabelStudioDataset", "ann_file": str(path), "images": str(_common(image_files))}
            yield _set_of(folder, path), str(path), spec
        return
    content = _json(path) if start.startswith(b"{") and path.stat().st_size > 2 else None
    if not isinstance(content, dict) or not {"images", "annotations", "categories"} <= set(content):
        return
    annotations, images = content["annotations"], content["images"]
    outlined = any(isinstance(one, dict) and one.get("segmentation") for one in annotations)
    if not outlined or not images:
        return
    names = [str(one.get("file_name", "")) for one in images[:: max(len(images) // _SAMPLED, 1)]]
    root = _root_of(names, [path.parent, folder, *sorted({image_file.parent for image_file in image_files})])
    spec = {"type": "CocoInstanceDataset", "ann_file": str(path), "images": str(root or _common(image_files))}
    yield _set_of(folder, path), str(path), spec


def _yolo(folder: Path, path: Path, files: Sequence[Path]) -> Iterator[Found]:
    try:
        content = yaml.safe_load(read_text(path))
    except (ValueError, RecursionError, yaml.YAMLError, SegKernelError):
        return
    if not isinstance(content, Mapping) or not isinstance(content.get("names"), list | Mapping):
        return
    texts = {text.stem: text for text in files if text.suffix == ".txt" and _is_polygons(text)}
    numbers = range(len(content["names"])) if isinstance(content["names"], list) else content["names"]
    if not texts or not {number for text in texts.values() for number in _numbers(text)} <= set(numbers):
        return
    for split in ("train", "val", "test"):
        if not content.get(split):
            continue
        spec: Spec = {"type": "YoloSegDataset", "ann_file": str(path), "split": split}
        with _quiet():
            part = open_part(split, f"data.{split}", spec)
        if part.problem:
            continue
        names = [Path(file).stem for file in getattr(part.dataset, "_names", ())]
        own = {texts[name].parent for name in names if name in texts}
        if not any(Path(key).is_file() for key in getattr(part.dataset, "_keys", ())) and len(own) == 1:
            spec["labels"] = str(own.pop())
        yield split, str(path), spec


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress warnings about a data set that is only tried."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _is_polygons(path: Path) -> bool:
    """Whether a text file has a class and an outline on its first line."""
    words = _start(path).split(b"\n", 1)[0].split()
    return len(words) >= 7 and words[0].isdigit() and all(_is_number(word) for word in words)


def _numbers(path: Path) -> set[int]:
    """Return the class numbers in a label file."""
    firsts = [line.split(maxsplit=1)[0] for line in read_text(path).splitlines() if line.strip()]
    return {int(first) for first in firsts if first.isdigit()}


def _is_number(word: bytes) -> bool:
    return word.replace(b".", b"", 1).replace(b"-", b"").replace(b"e", b"").isdigit()


def _start(path: Path, size: int = _SNIFFED) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(size)
    except OSError:
        return b""


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _set_of(folder: Path, path: Path) -> str:
    parts = Path(os.path.relpath(path, folder)).parts
    found = {split for part in (*parts[:-1], path.stem) if (split := split_of(part))}
    return found.pop() if len(found) == 1 else ALL


def _root_of(names: Iterable[str], places: Iterable[Path]) -> Path | None:
    listed = list(names)
    return next((place for place in places if all((place / name).is_file() for name in listed)), None)


def _common(image_files: Sequence[Path]) -> Path:
    return Path(os.path.commonpath([image_file.parent for image_file in image_files]))
