"""Where the images and masks of a folder are, and which belong together.

layout = find_layout(Path("my_folder"))
layout.sets["train"].pairs          # [("images/a.jpg", "masks/a.png"), ...], under the two folders
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from segkernel.errors import DataError, SegKernelError, UsageError
from segplug_datasets.doctor.sample_info import MaskInfo, inspect_mask
from segplug_datasets.listing import IMAGE_SUFFIXES, MASK_SUFFIXES, match_name, read_list, walk
from segplug_datasets.own_data.names import SECONDARY, role_of, split_of, tokens, without_role, without_split

ALL = "all"
"""The name of a set without a split."""

_SAMPLED = 5  # files of a folder whose name does not tell its role
_MOST_VALUES = 48  # distinct values of a mask; a photo has more
_ENOUGH = 0.5  # least share of the images that have a mask
_SHOWN = 5

Pairs = list[tuple[str, str]]


@dataclass
class ImageSet:
    """Images and masks of one set.

    Args:
        images: Folder of the images.
        masks: Folder of the masks.
        pairs: (image, mask) of each sample, under these folders.
        image_suffix: The suffix by which `FolderDataset` finds the images; None for the usual suffixes.
        mask_suffix: The suffix by which it finds the masks; None if only a list of pairs can match them.
        unlabelled: Images without a mask.
        spare: Masks without an image.
        listed: Whether the pairs were selected by a list file.
    """

    images: Path
    masks: Path
    pairs: Pairs
    image_suffix: str | None = None
    mask_suffix: str | None = None
    unlabelled: list[str] = field(default_factory=list)
    spare: list[str] = field(default_factory=list)
    listed: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether `FolderDataset` reads exactly these pairs without a list."""
        return self.mask_suffix is not None and not (self.unlabelled or self.spare or self.listed)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `FolderDataset`, except a list file."""
        given: dict[str, Any] = {"images": str(self.images), "masks": str(self.masks)}
        if self.image_suffix is not None:
            given["image_suffix"] = self.image_suffix
        if self.mask_suffix not in (None, ".png"):
            given["mask_suffix"] = self.mask_suffix
        return given

    def line(self, pair: tuple[str, str]) -> str:
        """Return the line of a list file for a sample."""
        return "\t".join(pair)


@dataclass
class Layout:
    """The sets of a folder, either `ALL` or those found of train, val and test; and remarks on what was found."""

    sets: dict[str, ImageSet]
    remarks: list[str] = field(default_factory=list)


@dataclass
class _Group:
    """Files of one kind in one folder, by their path inside it."""

    root: Path
    key: str
    split: str | None
    files: list[str]
    role: str | None = None
    suffix: str | None = None

    @property
    def is_secondary(self) -> bool:
        return bool(SECONDARY & set(tokens(self.key)))


def find_layout(folder: Path, images: str | None = None, masks: str | None = None) -> Layout:
    """Find the images and masks in a folder, and the sets that they form.

    Args:
        folder: The folder; its subfolders are searched too.
        images: The folder of images, if several fit; under ``folder``, or a path.
        masks: The folder of masks, if several fit; under ``folder``, or a path.

    Raises:
        DataError: When there are no images, or no masks.
        UsageError: When several folders of masks fit.
    """
    groups = [part for group in _groups(folder) for part in _split_group(group)]
    if not groups:
        raise DataError(f"no images here: no file ends in {', '.join(IMAGE_SUFFIXES)}", folder)
    for group in groups:
        group.role = group.role or _role(group)
    image_groups = _chosen([g for g in groups if g.role == "image" or images], folder, images)
    mask_groups = _chosen(
        [g for g in groups if (g.role in ("mask", "other") or masks) and g not in image_groups], folder, masks
    )
    if not image_groups:
        raise DataError(f"no images here, only masks: {_names(mask_groups)}; pass their folder with --images", folder)
    if not mask_groups:
        raise DataError(
            f"no masks here, only images in {_names(image_groups)}: a mask is a PNG with one value or colour per "
            "class; pass their folder with --labels, or annotate the images (labelme, CVAT, Label Studio)",
            folder,
        )
    return _by_set(folder, image_groups, mask_groups)


# ---------------------------------------------------------------- folders


def _groups(folder: Path) -> list[_Group]:
    """Return the image files of a folder, grouped by the subfolders that tell their role and split."""
    found: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for path in walk(folder):
        if path.lower().endswith(MASK_SUFFIXES):
            parts = Path(os.path.relpath(path, folder)).parts
            depth = _depth(parts[:-1])
            found[parts[:depth]].append("/".join(parts[depth:]))
    groups = []
    for parts, files in found.items():
        splits = {split for part in parts if (split := split_of(part))}
        key = "/".join(filter(None, map(without_split, parts)))
        groups.append(_Group(folder.joinpath(*parts), key, splits.pop() if len(splits) == 1 else None, files))
    return groups


def _depth(parts: Sequence[str]) -> int:
    """Return how many leading folders of a path tell role and split; all files below them form one group."""
    telling = [place for place, part in enumerate(parts) if role_of(part)]
    if not telling:
        return len(parts)
    return max([*telling, *(place for place, part in enumerate(parts) if split_of(part))]) + 1


def _split_group(group: _Group) -> list[_Group]:
    """Split a group that contains both images and masks into two."""
    ends = _two_ends(group.files)
    if ends is None:
        return _split_by_words(group)
    parts = [_with_end(group.files, *turn) for turn in (ends, ends[::-1])]
    if role_of(group.key) == "mask" and all(_looks_like_masks(group.root, part) for part in parts):
        return [group]
    if role_of(Path(ends[0]).stem) == "mask" or (
        role_of(Path(ends[1]).stem) != "mask" and _looks_like_masks(group.root, parts[0])
    ):
        ends, parts = ends[::-1], parts[::-1]
    if role_of(Path(ends[1]).stem) != "mask" and not _looks_like_masks(group.root, parts[1]):
        return [group]
    images = [file for file in group.files if file not in set(parts[1])]
    images = parts[0] if len(ends[0]) > len(os.path.splitext(ends[0])[1]) else images
    stem, suffix = os.path.splitext(ends[0])
    image_suffix = ends[0] if stem or suffix.lower() not in IMAGE_SUFFIXES else None
    return [
        replace(group, files=images, role="image", suffix=image_suffix),
        replace(group, files=parts[1], role="mask", suffix=ends[1]),
    ]


def _split_by_words(group: _Group) -> list[_Group]:
    """Split a group if about half of its file names are those of masks: ``img_1.png`` and ``mask_1.png``."""
    masks = [file for file in group.files if role_of(Path(file).stem) == "mask"]
    if not 0.4 * len(group.files) <= len(masks) <= 0.6 * len(group.files) or role_of(group.key):
        return [group]
    images = [file for file in group.files if file not in set(masks)]
    return [replace(group, files=images, role="image"), replace(group, files=masks, role="mask")]


def _two_ends(files: Sequence[str]) -> tuple[str, str] | None:
    """Return the two ends, such as ``.jpg`` and ``_mask.png``, by which most files of a folder form pairs."""
    ends: dict[str, set[str]] = defaultdict(set)
    for file in files:
        stem, suffix = os.path.splitext(file)
        places = [place for place, sign in enumerate(stem) if sign in "_-." and place]
        for place in [*places, len(stem)]:
            ends[stem[:place]].add(stem[place:] + suffix)
    pairs = Counter(pair for found in ends.values() if len(found) <= 6 for pair in combinations(sorted(found), 2))
    best, count = max(pairs.items(), key=lambda item: (item[1], -len("".join(item[0]))), default=(None, 0))
    return best if best and 2 * count >= 0.8 * len(files) and count > 1 else None


def _with_end(files: Iterable[str], end: str, other: str) -> list[str]:
    """Return the files with an end, except those with a longer other end: ``_mask.png`` is not ``.png``."""
    return [file for file in files if file.endswith(end) and not (other.endswith(end) and file.endswith(other))]


def _role(group: _Group) -> str:
    named = role_of(group.key)
    if named:
        return named
    return "mask" if _looks_like_masks(group.root, group.files) else "image"


def _looks_like_masks(root: Path, files: Sequence[str]) -> bool:
    step = max(len(files) // _SAMPLED, 1)
    seen = [inspect_mask(str(root / file)) for file in files[::step][:_SAMPLED]]
    return bool(seen) and sum(map(_is_mask, seen)) > 0.5 * len(seen)


def _is_mask(info: MaskInfo) -> bool:
    count = info.distinct if info.colors else len(info.values)
    return not info.error and not info.header.lossy and 0 < count <= _MOST_VALUES


def _chosen(groups: list[_Group], folder: Path, wanted: str | None) -> list[_Group]:
    """Return the groups in the folder that the user chose; all groups if none was chosen."""
    if wanted is None:
        return groups
    place = folder / wanted if (folder / wanted).is_dir() else Path(wanted)
    if not place.is_dir():
        raise UsageError(f"no such folder: {folder / wanted}")
    inside = [group for group in groups if place.resolve() in (group.root.resolve(), *group.root.resolve().parents)]
    if not inside:
        raise DataError("no images in this folder", place)
    return inside


def _names(groups: Iterable[_Group]) -> str:
    roots = sorted({str(group.root) for group in groups})
    return ", ".join(roots[:_SHOWN]) + (f" and {len(roots) - _SHOWN} more" if len(roots) > _SHOWN else "")


# ---------------------------------------------------------------- pairs


def _by_set(folder: Path, image_groups: Sequence[_Group], mask_groups: Sequence[_Group]) -> Layout:
    layout = Layout({})
    keys = _masks_for(folder, image_groups, mask_groups)
    for group in image_groups:
        masks = next((t for t in mask_groups if t.key == keys.get(group.key) and _fits(group, t)), None)
        if masks is None:
            layout.remarks.append(f"{len(group.files)} images in {group.root} have no masks: left out")
            continue
        found = _paired(group, masks)
        name = group.split or ALL
        layout.sets[name] = _merged(layout.sets[name], found) if name in layout.sets else found
    if not layout.sets:
        _refuse_several_masks(image_groups, mask_groups)
        shown = f"{_names(image_groups)} and {_names(mask_groups)}"
        raise DataError(
            f"images and masks do not have the same names: {shown}; use the same names, such as a.jpg and a.png", folder
        )
    return layout if set(layout.sets) != {ALL} else _by_lists(folder, layout)


def _refuse_several_masks(image_groups: Sequence[_Group], mask_groups: Sequence[_Group]) -> None:
    """Raise `DataError` if most images have several masks: one per class, in folders or with ends of their own."""
    names = {Path(file).stem for group in image_groups for file in group.files}
    for group in mask_groups:
        stems = [Path(file).stem for file in group.files]
        own = Counter(next((name for end in _places(stem) if (name := stem[:end]) in names), "") for stem in stems)
        own.pop("", None)
        if sum(count > 1 for count in own.values()) >= _ENOUGH * len(names):
            shown = ", ".join(sorted(file for file in group.files if Path(file).stem.startswith(min(own)))[:_SHOWN])
            raise DataError(
                f"several masks for each image: {shown}. If they are one per class, merge them into one mask with a "
                "value for each class; classes that overlap: data.task: multilabel, with a folder for each class "
                "(docs/configuration.md)",
                group.root,
            )


def _places(stem: str) -> list[int]:
    """Return where a name may end, the longest first: at its end, and before each separator."""
    return [len(stem), *(place for place in range(len(stem) - 1, 0, -1) if stem[place] in "_-.")]


def _merged(first: ImageSet, second: ImageSet) -> ImageSet:
    """Merge two sets into one, with pairs relative to the common folders of images and of masks.

    Raises:
        UsageError: When both have the same folder of masks.
    """
    if first.masks == second.masks:
        raise UsageError(f"{first.images} and {second.images} have the same masks; choose one with --images")
    images, masks = (
        Path(os.path.commonpath(both)) for both in ((first.images, second.images), (first.masks, second.masks))
    )
    pairs = [
        (os.path.relpath(one.images / image, images), os.path.relpath(one.masks / mask, masks))
        for one in (first, second)
        for image, mask in one.pairs
    ]
    unlabelled, spare = first.unlabelled + second.unlabelled, first.spare + second.spare
    return ImageSet(images, masks, pairs, unlabelled=unlabelled, spare=spare)


def _masks_for(folder: Path, image_groups: Sequence[_Group], mask_groups: Sequence[_Group]) -> dict[str, str]:
    """Return the key of the best matching mask folders, by the key of image folders."""
    keys: dict[str, str] = {}
    for key in dict.fromkeys(group.key for group in image_groups):
        own = [group for group in image_groups if group.key == key]
        fitting: dict[str, int] = Counter()
        for masks in mask_groups:
            matched = [_match(group, masks)[0] for group in own if _fits(group, masks)]
            if any(len(pairs) >= _ENOUGH * len(group.files) for pairs, group in zip(matched, own)):
                fitting[masks.key] += len(matched)
        if fitting:
            keys[key] = _best(folder, fitting, {masks.key: masks for masks in mask_groups})
    return keys


def _best(folder: Path, fitting: Mapping[str, int], groups: Mapping[str, _Group]) -> str:
    def rank(key: str) -> tuple[bool, bool, int]:
        return not groups[key].is_secondary, role_of(key) == "mask", fitting[key]

    best = max(map(rank, fitting))
    equal = [key for key in fitting if rank(key) == best]
    if len(equal) > 1:
        shown = " or ".join(os.path.relpath(groups[key].root, folder) for key in equal)
        raise UsageError(f"{folder}: several folders hold masks of these images; choose with --labels {shown}")
    return equal[0]


def _fits(images: _Group, masks: _Group) -> bool:
    return masks.split in (images.split, None)


def _paired(images: _Group, masks: _Group) -> ImageSet:
    pairs, suffixes = _match(images, masks)
    with_mask, with_image = {image for image, _ in pairs}, {mask for _, mask in pairs}
    return ImageSet(
        images.root,
        masks.root,
        pairs,
        *suffixes,
        [file for file in images.files if file not in with_mask],
        [file for file in masks.files if file not in with_image],
    )


def _match(images: _Group, masks: _Group) -> tuple[Pairs, tuple[str | None, str | None]]:
    """Return the pairs of two folders, and the suffixes of images and masks if these define the pairs."""
    if len(images.files) == len(masks.files) == 1 and images.root == masks.root:  # a folder for each sample
        return [(images.files[0], masks.files[0])], (None, None)
    best: Pairs = []
    suffixes: tuple[str | None, str | None] = None, None
    for own in _suffixes(images):
        for end in [*_suffixes(masks), *_own_ends(images, masks, own)]:
            mask_of = {bare: mask for mask in masks.files if (bare := _bare(mask, end))}
            found = [(i, mask_of[n]) for i in images.files if (n := _bare(i, own)) in mask_of]
            if len(found) > len(best):
                best, suffixes = found, (own, end)
    if len(best) >= _ENOUGH * len(images.files):
        return best, suffixes
    for key in (lambda file: Path(file).stem, lambda file: without_role(Path(file).stem)):
        names, mask_of = _unique(images.files, key), _unique(masks.files, key)
        found = [(image, mask_of[name]) for name, image in names.items() if name in mask_of]
        if len(found) > len(best):
            best, suffixes = found, (None, None)
    return sorted(best), suffixes


def _own_ends(images: _Group, masks: _Group, own: str | None) -> list[str]:
    """Return the end of the masks of all images if they have further files: ``_labelIds.png`` beside ``_color.png``."""
    names, ends = {_bare(file, own) for file in images.files}, Counter[str]()
    for file in masks.files:
        stem, suffix = os.path.splitext(file)
        ends.update(stem[end:] + suffix for end in _places(stem) if stem[:end] in names)
    whole = [end for end, count in ends.items() if count >= _ENOUGH * len(names)]
    likely = [end for end in whole if not SECONDARY & set(tokens(end))]
    return likely if len(likely) == 1 < len(whole) else []


def _suffixes(group: _Group) -> Sequence[str | None]:
    """Return the ends of file names to try: for masks each suffix, with and without the common end of all names."""
    if group.suffix is not None:
        return [group.suffix]
    found = Counter(os.path.splitext(file)[1] for file in group.files)
    common = _common_end([os.path.splitext(file)[0] for file in group.files])
    plain = [suffix for suffix, _ in found.most_common(3)]
    longer = [common + suffix for suffix in plain if common]
    return [None, *longer] if group.role == "image" else [*longer, *plain]


def _bare(file: str, suffix: str | None) -> str:
    if suffix is None:
        return os.path.splitext(file)[0]
    return file[: -len(suffix)] if file.endswith(suffix) else ""


def _common_end(stems: Sequence[str]) -> str:
    """Return the common end of all names, from a separator on, such as ``_mask``."""
    if len(stems) < 2:
        return ""
    first, last = min(turned := [stem[::-1] for stem in stems]), max(turned)  # what these two share, all share
    length = next((place for place, (a, b) in enumerate(zip(first, last)) if a != b), min(len(first), len(last)))
    end = first[:length][::-1]
    places = [place for place, sign in enumerate(end) if sign in "_-."]
    return end[places[0] :] if places else ""


def _unique(files: Sequence[str], key: Any) -> dict[Any, str]:
    """Return the files with a unique key, by that key."""
    found: dict[Any, list[str]] = defaultdict(list)
    for file in files:
        found[key(file)].append(file)
    return {name: several[0] for name, several in found.items() if name and len(several) == 1}


# ---------------------------------------------------------------- lists


def _by_lists(folder: Path, layout: Layout) -> Layout:
    """Split one set by the lists ``train.txt``, ``val.txt`` ... in the folder, if there are any."""
    whole = layout.sets[ALL]
    by_name = {os.path.splitext(pair[0])[0]: pair for pair in whole.pairs}
    sets: dict[str, ImageSet] = {}
    for path in sorted(map(Path, walk(folder))):
        name = (
            split_of(path.stem) if path.suffix in (".txt", ".lst", ".csv") and without_split(path.stem) == "" else None
        )
        if name is None or name in sets:
            continue
        try:
            listed = [match_name(line, by_name, whole.images, MASK_SUFFIXES) for line in read_list(path)]
        except SegKernelError:
            continue
        pairs = [by_name[one] for one in listed if one in by_name]
        if len(pairs) >= 0.9 * len(listed):
            sets[name] = replace(whole, pairs=pairs, listed=True)
            layout.remarks.append(f"{name} has the {len(pairs)} images listed in {path}")
    return Layout(sets, layout.remarks) if "train" in sets else layout
