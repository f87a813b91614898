"""Checks of pairing: images without a mask, masks without an image, and differing names."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from segplug_datasets.doctor.findings import Finding, config_lines
from segplug_datasets.doctor.parts import Part
from segplug_datasets.listing import MASK_SUFFIXES, walk

_BY_LIST = "If only the names differ, write a list with 'image mask' per line, and set 'split' to it."
_OTHERWISE = f"Label them, or remove them. {_BY_LIST}"


def check_pairing(part: Part) -> Iterator[Finding]:
    """Yield findings on unpaired files of a set."""
    for one in part.left_out:
        yield Finding("note" if one.is_usual else "warning", one.kind, part.name, f"{one.count} {one.what}", one.why)
    case = _differ_in_case(part)
    images = {name: path for name, path in part.unpaired_images.items() if name not in case}
    masks = {name: path for name, path in part.unpaired_masks.items() if name not in case.values()}
    if case:
        first = next(iter(case.items()))
        what = f"{len(case)} names differ in upper and lower case: {first[0]} and {first[1]}"
        files = [part.unpaired_images[name] for name in case]
        why = "Rename one of each pair: file names are case-sensitive on most systems."
        yield Finding("error", "case-differs", part.name, what, why, files)
    changes = _renamed(part, [*images.values()])
    fix = config_lines([part], changes) if changes else ""
    if images:
        suffix = part.folders.mask_suffix if part.folders else ""
        what = f"{len(images)} images have no mask NAME{suffix}"
        why = "Masks with other names were found; these lines read them." if fix else _OTHERWISE
        yield Finding("error", "images-without-mask", part.name, what, why, [*images.values()], fix=fix)
    if masks and not (fix and images):
        why = "These lines find the images." if fix else f"Restore the images, or remove the masks. {_BY_LIST}"
        what = f"{len(masks)} masks have no image"
        yield Finding("error", "masks-without-image", part.name, what, why, [*masks.values()], fix=fix)
    if part.problem and not (images or masks or case):
        yield Finding("error", "cannot-be-opened", part.name, part.problem.splitlines()[0], part.problem, fix=fix)
    elif not part.pairs and not (images or masks or case):
        yield Finding("error", "empty", part.name, "the set is empty")


def _differ_in_case(part: Part) -> dict[str, str]:
    """Return the names of unpaired images whose mask differs only in case, with the mask's name."""
    masks = {name.lower(): name for name in part.unpaired_masks}
    return {name: masks[name.lower()] for name in part.unpaired_images if name.lower() in masks}


def _renamed(part: Part, images: Sequence[str]) -> dict[str, str]:
    """Return suffixes by which most images would have a mask; empty if there are none."""
    folders = part.folders
    if folders is None or folders.masks is None:
        return {}
    images = images or [] if part.pairs else _files(folders.images)
    masks = _files(folders.masks)
    if not images or not masks or part.type != "FolderDataset":
        return {}
    if folders.images.resolve() == folders.masks.resolve():
        return _in_one_folder(masks)
    stems = Counter[tuple[str, str]]()
    names = {path: _name(path, folders.images) for path in images}
    ours = {"", _common_end([os.path.splitext(name)[0] for name in names.values()])}
    there = {_name(path, folders.masks) for path in masks}
    ends = {"", _common_end([os.path.splitext(name)[0] for name in there])}
    suffixes = {os.path.splitext(name)[1] for name in there}
    for own in ours:
        for end in {end + suffix for end in ends for suffix in suffixes}:
            bare = [os.path.splitext(name)[0] for name in names.values()]
            stems[own, end] = sum(f"{stem[: len(stem) - len(own)]}{end}" in there for stem in bare)
    (own, end), count = max(stems.items(), key=lambda item: (item[1], -len(item[0][0])))
    if count < 0.8 * len(images) or (not own and end == folders.mask_suffix):
        return {}
    given = {"mask_suffix": end}
    return {**given, "image_suffix": own + os.path.splitext(images[0])[1]} if own else given


def _files(folder: Path) -> list[str]:
    return [path for path in (walk(folder) if folder.is_dir() else ()) if path.lower().endswith(MASK_SUFFIXES)]


def _name(path: str, folder: Path) -> str:
    return os.path.relpath(path, folder).replace(os.sep, "/")


def _in_one_folder(paths: Sequence[str]) -> dict[str, str]:
    """Return the suffix of masks in a folder of both images and masks; empty if there is none."""
    stems = {os.path.splitext(path)[0] for path in paths}
    ends = Counter[str]()
    for path in paths:
        stem, suffix = os.path.splitext(path)
        places = [place for place, sign in enumerate(stem) if sign in "_-." and stem[:place] in stems - {stem}]
        ends.update(stem[place:] + suffix for place in places)
    end, count = max(ends.items(), key=lambda item: item[1], default=("", 0))
    return {"mask_suffix": end} if count >= 0.4 * len(paths) else {}


def _common_end(names: Sequence[str]) -> str:
    """Return the common ending of all names, from its first separator on: ``_mask``."""
    if len(names) < 2:
        return names[0][_last_separator(names[0]) :] if names and _last_separator(names[0]) > 0 else ""
    first, last = min(turned := [name[::-1] for name in names]), max(turned)  # what these two share, all do
    length = next((i for i, (a, b) in enumerate(zip(first, last)) if a != b), min(len(first), len(last)))
    end = first[:length][::-1]
    places = [end.find(mark) for mark in "_-." if mark in end]
    return end[min(places) :] if places else ""


def _last_separator(name: str) -> int:
    return max(name.rfind(mark) for mark in "_-.")
