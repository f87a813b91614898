"""The sets to inspect: those of a config, two folders, or a published data set, as lists of files.

    for part in parts_of_config(load_config("my.yaml")): print(part.name, len(part.pairs))

Sets whose files cannot be paired are listed as well, with their unpaired files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from segkernel import build
from segkernel.errors import DataError, SegKernelError, UsageError
from segkernel.labels import IGNORE, Color
from segkernel.signature import signature
from segplug_datasets.doctor.sample_info import Pair
from segplug_datasets.files import FolderDataset, ListedFiles
from segplug_datasets.folders import Folders
from segplug_datasets.label_spec import LabelSpec
from segplug_datasets.left_out import LeftOut
from segplug_datasets.listing import MASK_SUFFIXES, named_files, read_list, walk

SETS = ("train", "val", "test")


@dataclass
class Part:
    """One set to inspect.

    Args:
        name: ``train``, ``val`` or ``test``; with a number if a set consists of several.
        key: Key in a config: ``data.train``.
        type: Class name in a config.
        arguments: Arguments of the class, as the config has them.
        pairs: The samples.
        labels: Meaning of the mask values; None when unknown.
        colors: RGB to class id.
        dataset: Where to read samples from if `pairs` are not plain files.
        folders: Folders that were searched for the files.
        unpaired_images: Images without a mask.
        unpaired_masks: Masks without an image.
        left_out: Objects and files that the set skips.
        problem: Why the set cannot be opened; empty when it can.
        written: Whether the set is already in a config.
    """

    name: str
    key: str
    type: str = "FolderDataset"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    pairs: list[Pair] = field(default_factory=list)
    labels: LabelSpec | None = None
    colors: Mapping[Color, int] = field(default_factory=dict)
    dataset: Any = None
    folders: Folders | None = None
    unpaired_images: dict[str, str] = field(default_factory=dict)
    unpaired_masks: dict[str, str] = field(default_factory=dict)
    problem: str = ""
    left_out: Sequence[LeftOut] = ()
    written: bool = True

    @property
    def set(self) -> str:
        """The set of the config it belongs to: ``train``."""
        return self.name.partition("[")[0]

    def folder_arguments(self) -> dict[str, Any]:
        """Return the arguments with which `FolderDataset` reads the same files."""
        if self.type == "FolderDataset":
            return dict(self.arguments)
        given: dict[str, Any] = {}
        if self.folders is not None:
            folders = self.folders
            given = {"images": str(folders.images), "masks": str(folders.masks), "mask_suffix": folders.mask_suffix}
            if len(folders.image_suffixes) == 1:
                given["image_suffix"] = folders.image_suffixes[0]
            if folders.split is not None:
                given["split"] = str(folders.split)
        return {**given, **(_label_arguments(self.labels) if self.labels else {})}


def _label_arguments(labels: LabelSpec) -> dict[str, Any]:
    given: dict[str, Any] = {"classes": list(labels.classes)}
    if labels.ignore != (IGNORE,):
        given["ignore"] = list(labels.ignore)
    if labels.offset:
        given["offset"] = labels.offset
    if labels.values is not None:
        given["values"] = dict(labels.values)
    if labels.background is not None:
        given["background"] = labels.background
    return given


# ---------------------------------------------------------------- where sets come from


def parts_of_config(config: Mapping[str, Any]) -> list[Part]:
    """Return the sets of a config; one that is both validation and test set only once.

    Raises:
        UsageError: When the config has none.
        ConfigError: When the specification of one is invalid.
    """
    data = config.get("data") or {}
    specs = {name: data[name] for name in SETS if data.get(name)}
    if not specs:
        raise UsageError("the config has no data sets: data.train, data.val and data.test are empty")
    repeated = "test" in specs and specs.get("val") == specs["test"]
    wanted = {name: spec for name, spec in specs.items() if not (repeated and name == "test")}
    task = data.get("task")
    return [part for name, spec in wanted.items() for part in _parts(name, f"data.{name}", spec, task)]


def parts_of_folders(
    images: str, masks: str | None, classes: Sequence[str], arguments: Mapping[str, Any]
) -> list[Part]:
    """Return two folders as a set; without ``classes`` the label specification is unknown."""
    given = {"images": images, "masks": masks, **({"classes": list(classes)} if classes else {}), **arguments}
    own_folder = masks is not None and Path(masks).resolve() != Path(images).resolve()
    suffix = _mask_suffix(Path(masks)) if own_folder and masks and "mask_suffix" not in given else {}
    part = open_part("train", "data.train", {"type": "FolderDataset", **given, **suffix})
    part.written = False
    if not (classes or "palette" in given or "values" in given):
        part.labels = None
    return [part]


def parts_of_type(name: str, root: str | None, arguments: Mapping[str, Any]) -> list[Part]:
    """Return the sets of a published data set: one for each choice of its argument ``split``, if it has one."""
    spec = {"type": name, **({} if root is None else {"data_root": root}), **arguments}
    splits = [] if "split" in spec else _choices(name, "split")
    if not splits:
        return list(_parts("train", "data.train", spec))
    return [part for split in splits for part in _parts(split, f"data.{split}", {**spec, "split": split})]


def _choices(name: str, argument: str) -> Sequence[str]:
    found = [point for point in entry_points(group="segkernel.datasets") if point.name == name]
    parameter = signature(found[0].load()).get(argument) if found else None
    annotation = parameter.annotation if parameter else None
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _mask_suffix(folder: Path) -> dict[str, str]:
    """Return the suffix of most masks, as an argument, if it is not the default."""
    found = [os.path.splitext(path)[1] for path in (walk(folder) if folder.is_dir() else ())]
    found = [suffix for suffix in found if suffix.lower() in MASK_SUFFIXES]
    usual = max(sorted(set(found)), key=found.count, default=".png")
    return {} if usual == ".png" else {"mask_suffix": usual}


# ---------------------------------------------------------------- loading


def _parts(name: str, key: str, spec: Any, task: str | None = None) -> Iterator[Part]:
    """Yield a set, or the sets in a wrapper, each with its name and key."""
    inner = spec.get("datasets") if isinstance(spec, Mapping) else None
    if isinstance(inner, Sequence) and inner and all(isinstance(one, Mapping) and "type" in one for one in inner):
        for number, one in enumerate(inner):
            yield from _parts(f"{name}[{number}]", f"{key}.datasets[{number}]", one, task)
        return
    nested = spec.get("dataset") if isinstance(spec, Mapping) else None
    if isinstance(nested, Mapping) and "type" in nested:
        yield from _parts(name, f"{key}.dataset", nested, task)
        return
    yield open_part(name, key, spec, task)


def open_part(name: str, key: str, spec: Mapping[str, Any], task: str | None = None) -> Part:
    """Open the set of a specification; if its files cannot be paired, list the unpaired ones.

    Raises:
        SegKernelError: When the specification is invalid.
    """
    arguments = {argument: value for argument, value in spec.items() if argument != "type"}
    part = Part(name, key, str(spec.get("type", "")), arguments)
    try:
        takes_task = task is not None and spec.get("type") == FolderDataset.__name__
        dataset = build("datasets", {"task": task, **spec} if takes_task else spec, path=key)
    except DataError as error:
        folders = getattr(error, "folders", None)
        if folders is None:
            part.problem = str(error)
        else:
            _pair_what_fits(part, folders, error)
        return part
    except OSError as error:
        part.problem = f"{error.filename or ''}: {error.strerror or error}"
        return part
    part.labels = LabelSpec.of_dataset(dataset)
    if part.labels.task == "multilabel":
        part.problem = "labels of task multilabel are not checked: the doctor supports only one class per pixel"
        return part
    part.folders = getattr(dataset, "folders", None)
    part.left_out = getattr(dataset, "left_out", ())
    part.pairs = _listed(dataset)
    if part.pairs and part.pairs[0].index is None:
        part.colors = part.folders.colors if part.folders is not None else {}
    else:
        part.dataset = dataset
    return part


def _listed(dataset: Any) -> list[Pair]:
    """Return the files of a data set whose samples are plain files, or else its indices."""
    kind = type(dataset)
    plain = (
        isinstance(dataset, ListedFiles)
        and kind.__getitem__ in (ListedFiles.__getitem__, FolderDataset.__getitem__)
        and kind._annotate is ListedFiles._annotate
    )
    if plain:
        return [Pair(name, path, mask) for name, path, mask in dataset.files]
    return [Pair(str(index), f"sample {index}", None, index) for index in range(len(dataset))]


def _pair_what_fits(part: Part, folders: Folders, error: DataError) -> None:
    part.folders, part.labels, part.colors = folders, folders.labels, folders.colors
    masks = {} if folders.masks is None else _named(folders.masks, (folders.mask_suffix,))
    taken = folders.label_files()
    images = {n: path for n, path in _named(folders.images, folders.image_suffixes).items() if path not in taken}
    names: Sequence[str] = sorted(images)
    if folders.split is not None:
        try:
            names = folders.names(read_list(folders.split), images)
        except SegKernelError as unreadable:
            part.problem = str(unreadable)
    if folders.masks is None:
        part.pairs = [Pair(name, images[name]) for name in names if name in images]
    else:
        part.pairs = [Pair(name, images[name], masks[name]) for name in names if name in images and name in masks]
        part.unpaired_images = {name: images[name] for name in names if name in images and name not in masks}
    part.unpaired_masks = {name: path for name, path in masks.items() if name not in images}
    if not part.pairs or not (part.unpaired_images or part.unpaired_masks):
        part.problem = part.problem or str(error)


def _named(folder: Path, suffixes: Sequence[str]) -> dict[str, str]:
    """Return the files of a folder by name; empty when it does not exist."""
    try:
        return {name: path for name, path in named_files(folder, suffixes) if name}
    except DataError:
        return {}
