"""All steps from a folder to a config: find, diagnose, split, choose, write.

project = prepare(Path("my_folder"), Path("my.yaml"), Options())
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from typing import Any

from segkernel.config import load_config
from segkernel.errors import DataError, SegKernelError, UsageError
from segkernel.files import replacing
from segplug_datasets.doctor.findings import Finding
from segplug_datasets.doctor.image_files import is_sound
from segplug_datasets.doctor.parts import SETS, Part, open_part
from segplug_datasets.doctor.sample_info import SampleInfo
from segplug_datasets.doctor.stats import DatasetStats, measure
from segplug_datasets.own_data.annotation_files import find_annotations
from segplug_datasets.own_data.class_lists import ClassList, find_class_lists
from segplug_datasets.own_data.config_file import render
from segplug_datasets.own_data.deep_images import is_deep, value_range, with_all_bits
from segplug_datasets.own_data.diagnosis import Diagnosis, diagnose
from segplug_datasets.own_data.facts import gather
from segplug_datasets.own_data.layout import ALL, ImageSet, find_layout
from segplug_datasets.own_data.published import published_sets
from segplug_datasets.own_data.recipe import Facts, Machine, Recipe, choose, this_machine
from segplug_datasets.own_data.splits import SHARES, split
from segplug_datasets.own_data.zoo_model import (
    STARTER,
    fixed_crop,
    load_base,
    model_changes,
    schedule_changes,
    transform_changes,
)

Inspect = Callable[[list[Part]], list[tuple[Part, list[SampleInfo]]]]
"""Inspects every sample of some sets."""

_MEANING = ("classes", "palette", "values", "ignore", "ignore_colors", "value_range")
"""Arguments with the meaning of values: written once, and referenced by the other sets."""


@dataclass(frozen=True)
class Options:
    """The arguments of ``seg-kernel init``."""

    images: str | None = None
    labels: str | None = None
    root: str | None = None
    model: str = STARTER
    iterations: int | None = None
    force: bool = False


@dataclass
class Project:
    """What was found and chosen, and the files that were written.

    Args:
        facts: Measurements of the training set.
        stats: Statistics of each set.
        diagnosis: What the doctor corrected, and its remaining findings.
        recipe: The chosen sizes and lengths.
        machine: The machine to train on.
        written: The files that were written.
        remarks: Remarks for the user.
        check: The command that shows the errors that remain; empty without errors.
    """

    facts: Facts
    stats: list[DatasetStats]
    diagnosis: Diagnosis
    recipe: Recipe
    machine: Machine
    written: list[Path] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    check: str = ""

    @property
    def findings(self) -> list[Finding]:
        """The doctor's errors and warnings that no config can correct."""
        return [finding for finding in self.diagnosis.left if finding.severity != "note"]


@dataclass
class _Set:
    """A set of the config: its files, the samples in use, and why these are listed in a file."""

    part: Part
    samples: list[SampleInfo]
    files: ImageSet | None = None
    whole: bool = True
    why: str = "images with a mask"


def prepare(source: str, out: Path, options: Options, inspect: Inspect) -> Project:
    """Write a config for the data in a folder, or for a published data set.

    Raises:
        UsageError: When a file would be overwritten, or several folders fit and none was chosen.
        DataError: When there are no images, no masks, or only one class.
        ConfigError: When no packaged config has the model's name.
    """
    base = load_base(options.model)
    lists = {name: out.with_name(f"{out.stem}_{name}.txt") for name in SETS}
    _refuse_overwriting([out], options.force)
    with tempfile.TemporaryDirectory() as scratch:
        found, diagnosis, remarks = _read(source, options, inspect, Path(scratch))
        sets, split_remarks = _split(found)
        remarks += [*split_remarks, *_read_all_bits(sets, diagnosis)]
        chosen = [(one.part, one.samples) for one in sets]
        stats = measure(chosen)
        facts = gather(stats[0], *chosen[0])
    machine = this_machine()
    recipe = choose(facts, machine, options.iterations, fixed_crop(base), small=options.model == STARTER)
    project = Project(facts, stats, diagnosis, recipe, machine, remarks=remarks)
    project.check = _check_command(out, diagnosis, found, sets)
    needed = {one.part.name: lists[one.part.name] for one in sets if not one.whole}
    _refuse_overwriting([*needed.values()], options.force)
    text = _config(source, options, base, sets, needed, project)
    for one in sets:
        if one.part.name in needed:
            _write(needed[one.part.name], "".join(f"{line}\n" for line in _listed(one)), project)
    _write(out, text, project)
    load_config(out)
    return project


_LONG = 100  # characters of a comment
_SHOWN = 12  # classes in a comment


def _refuse_overwriting(paths: Sequence[Path], force: bool) -> None:
    there = [str(path) for path in paths if path.exists()]
    if there and not force:
        raise UsageError(f"{', '.join(there)} exists: name another file with --out, or overwrite it with --force")


def _write(path: Path, text: str, project: Project) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    project.written.append(path)


def _check_command(out: Path, diagnosis: Diagnosis, found: Sequence[_Set], sets: Sequence[_Set]) -> str:
    """Return the command that shows the remaining errors: the lists of the config omit the files that have them."""
    errors = {name for one in diagnosis.left if one.severity == "error" for name in one.where.split(", ")}
    if not errors:
        return ""
    before = {"train", *(one.part.name for one in found)}
    taken = [one.part.name for one in sets if one.part.name not in before]  # their images are those of train
    listed = [one for one in sets if one.part.name in errors and one.part.name not in taken and not one.whole]
    if any(one.files is not None and one.files.mask_suffix is None for one in listed):
        return f"seg-kernel data check {quote(str(out))}"  # only the list has the pairs
    keys = [f"~data.{one.part.name}.{'names' if one.files is None else 'split'}" for one in listed]
    keys += [f"~data.{name}" for name in taken]
    return " ".join(["seg-kernel data check", quote(str(out)), *(f"'{key}'" for key in keys)])


# ---------------------------------------------------------------- reading


def _read(source: str, options: Options, inspect: Inspect, scratch: Path) -> tuple[list[_Set], Diagnosis, list[str]]:
    """Return the sets of a folder with their inspected samples, the diagnosis of their masks, and remarks."""
    folder = Path(source)
    files: dict[str, ImageSet] = {}
    remarks: list[str] = []
    lists: list[ClassList] = []
    if folder.is_dir():
        parts, files, remarks = _parts_of(folder, options, scratch)
        if files:
            near = [place for one in files.values() for f in (one.masks, one.images) for place in (f, f.parent)]
            lists = find_class_lists([folder, *near])
    elif folder.exists():
        raise UsageError(f"{folder} is a file: pass its folder instead; --labels selects an annotation file")
    else:
        parts = published_sets(source, options.root)
    diagnosis = diagnose(inspect(parts), lists)
    if any(finding.kind == "off-by-one" for finding in diagnosis.applied):
        remarks.append("0 is ignored; if it is a class, remove 'offset', add its name, and increase num_classes")
    remarks += [f"class names are from {diagnosis.classes.path}"] if diagnosis.classes else []
    if diagnosis.palette_of:
        remarks.append(
            f"the colours are those of {diagnosis.palette_of}, so its class names were taken; if they are wrong, "
            "change 'classes', 'palette' and 'num_classes', or list names and colours in class_dict.csv and init again"
        )
    by_name = {"train" if name == ALL else name: one for name, one in files.items()}
    sets = [_Set(part, samples, by_name.get(part.name)) for part, samples in diagnosis.inspected]
    for one in sets:
        one.whole = one.files is None or one.files.is_whole
    _require_same_classes(sets)
    if len(sets) == 1:
        sets[0].part.name = ALL
    return [_sound(one, remarks) for one in sets], diagnosis, remarks


def _require_same_classes(sets: Sequence[_Set]) -> None:
    first = sets[0].part
    for one in sets[1:]:
        ours, theirs = (part.labels.classes if part.labels else () for part in (first, one.part))
        if ours != theirs:
            raise DataError(
                f"{first.name} has the classes {', '.join(ours)}, and {one.part.name} has {', '.join(theirs)}: "
                "export both with the same list of classes"
            )


def _parts_of(folder: Path, options: Options, scratch: Path) -> tuple[list[Part], dict[str, ImageSet], list[str]]:
    chosen = options.labels
    is_file = chosen is not None and any(place.is_file() for place in (folder / chosen, Path(chosen)))
    if is_file:
        return _described(find_annotations(folder, chosen))
    try:
        layout = find_layout(folder, options.images, chosen)
    except DataError:
        specs = find_annotations(folder, chosen)
        if not specs:
            raise
        return _described(specs)
    files = layout.sets if len(layout.sets) > 1 else {ALL: next(iter(layout.sets.values()))}
    for one in files.values():
        if one.unlabelled:
            layout.remarks.append(f"left out: {_images(len(one.unlabelled))} without a mask in {one.images}")
        if one.spare:
            layout.remarks.append(f"left out: {len(one.spare)} masks without an image in {one.masks}")
    return [_folder_part(name, one, scratch) for name, one in files.items()], files, layout.remarks


def _described(specs: Mapping[str, Mapping[str, Any]]) -> tuple[list[Part], dict[str, ImageSet], list[str]]:
    named = {"train" if name == ALL else name: spec for name, spec in specs.items()}
    return [open_part(name, f"data.{name}", spec) for name, spec in named.items()], {}, []


def _folder_part(name: str, files: ImageSet, scratch: Path) -> Part:
    name = "train" if name == ALL else name
    path = scratch / f"{name}.txt"
    path.write_text("".join(f"{files.line(pair)}\n" for pair in files.pairs), encoding="utf-8")
    arguments = {**files.arguments(), "split": str(path)}
    part = open_part(name, f"data.{name}", {"type": "FolderDataset", **arguments})
    part.written, part.labels = False, None
    return part


def _sound(one: _Set, remarks: list[str]) -> _Set:
    """Return a set without the samples that cannot be read."""
    sound = [sample for sample in one.samples if is_sound(sample)]
    if len(sound) < len(one.samples) and _takes_list(one):
        remarks.append(f"left out: {_images(len(one.samples) - len(sound))} that cannot be read with their masks")
        return replace(one, samples=sound, whole=False, why="images that can be read with their masks")
    return one


# ---------------------------------------------------------------- splitting


def _split(sets: list[_Set]) -> tuple[list[_Set], list[str]]:
    """Return the three sets, with missing ones split from the training images, and remarks."""
    there = {one.part.name: one for one in sets}
    first = there.get("train") or there.get(ALL) or sets[0]
    missing = [name for name in SETS if name not in there]
    takes_list = _takes_list(first)
    if len(sets) == 1 and not takes_list:
        raise UsageError(f"{first.part.type} has a single set and cannot be split by a list: write the config by hand")
    if not missing or not takes_list:
        return sorted(sets, key=lambda one: SETS.index(one.part.name)), []
    taken = {name: SHARES[name] for name in missing if name != "train"}
    shares = {"train": 1 - sum(taken.values()), **taken}
    done = split(first.part, first.samples, shares)
    how = "in the order of their names, because too many look the same" if done.in_order else "at random (seed 0)"
    parted = {name: _subset(first, name, indices, f"split {how}") for name, indices in done.sets.items()}
    kept = {name: one for name, one in there.items() if name not in (first.part.name, *parted)}
    numbers = ", ".join(f"{len(one.samples)} {name}" for name, one in parted.items())
    copies = f"; {done.groups} groups of images that look the same were kept together" if done.groups else ""
    remarks = [f"split {how}: {numbers}{'' if done.in_order else copies}"]
    both = {**kept, **parted}
    return [both[name] for name in SETS if name in both], remarks


def _read_all_bits(sets: Sequence[_Set], diagnosis: Diagnosis) -> Iterator[str]:
    """Change the sets if all images have more than 8 bits per band; yield a remark on it."""
    if not all(is_deep(one.part, one.samples) for one in sets):
        return
    try:
        limits = value_range(sets[0].samples)
        parts = [with_all_bits(one.part, one.samples, limits) for one in sets]
    except SegKernelError as error:  # a package that reads them may be missing
        reason = " ".join(str(error).split())
        yield f"only the upper 8 bits of images with more are read, and dark ones are black: {reason}"
        return
    for one, part in zip(sets, parts):
        one.part = part
    diagnosis.left = [finding for finding in diagnosis.left if finding.kind != "deep-images"]
    low, high = limits
    yield f"images have more than 8 bits per band: values from {low} to {high} are mapped to 0 to 255 (value_range)"


def _takes_list(one: _Set) -> bool:
    return one.files is not None or _takes_names(one.part)


def _takes_names(part: Part) -> bool:
    from segplug_datasets.annotations.shapes import ShapeDataset

    return isinstance(part.dataset, ShapeDataset)


def _subset(one: _Set, name: str, indices: Sequence[int], why: str) -> _Set:
    part = replace(one.part, name=name, key=f"data.{name}")
    return replace(one, part=part, samples=[one.samples[index] for index in indices], whole=False, why=why)


def _listed(one: _Set) -> list[str]:
    """Return the lines of the list file of a set: names, or pairs if images and masks differ in name."""
    if one.files is None:
        return [sample.image.path.removeprefix(_root(one.part)) for sample in one.samples]
    by_image = {str(one.files.images / pair[0]): pair for pair in one.files.pairs}
    pairs = [by_image[str(Path(sample.image.path))] for sample in one.samples]
    if one.files.mask_suffix is None:
        return [one.files.line(pair) for pair in pairs]
    return [pair[0] for pair in pairs]


def _root(part: Part) -> str:
    return str(getattr(part.dataset, "_images", "")) + "/"


# ---------------------------------------------------------------- writing


def _config(
    source: str, options: Options, base: Any, sets: Sequence[_Set], lists: Mapping[str, Path], project: Project
) -> str:
    recipe, first = project.recipe, sets[0]
    classes = list(project.stats[0].classes)
    data: dict[str, Any] = {"num_classes": len(classes)}
    shown = ", ".join(classes[:_SHOWN]) + (f" and {len(classes) - _SHOWN} more" if len(classes) > _SHOWN else "")
    why = {"data.num_classes": shown}
    for one in sets:
        name = one.part.name
        data[name] = _spec(one, lists.get(name), first if one is not first else None)
        old = (base.get("data") or {}).get(name)
        if isinstance(old, Mapping) and old.get("type") == data[name]["type"]:
            data[name] = {"_delete_": True, **data[name]}
        why[f"data.{name}"] = _images(len(one.samples))
        if name in lists:
            why[f"data.{name}.{'split' if one.files is not None else 'names'}"] = one.why
    if "value_range" in data[first.part.name]:
        why[f"data.{first.part.name}.value_range"] = "of the training images; mapped to 0 to 255"
    if project.diagnosis.classes:
        why["data.train.classes"] = f"from {project.diagnosis.classes.path}"
    if project.diagnosis.palette_of:
        why["data.train.classes"] = f"recognised by the colours: {project.diagnosis.palette_of}"
    if not project.diagnosis.named:
        why["data.train.classes"] = "no class names were found: fill them in"
    if len(sets) < len(SETS):
        last = sets[-1].part.name
        absent = [name for name in SETS if name not in lists and name not in data]
        data.update(dict.fromkeys(absent, f"${{data.{last}}}"))
        why |= {f"data.{name}": f"there are no other images than those of {last}" for name in absent}
    for finding in project.diagnosis.applied:
        for key in ("values", "offset", "palette", "ignore_colors", "ignore"):
            if key in data[first.part.name] and f"{key}:" in finding.fix:
                why[f"data.train.{key}"] = finding.what if len(finding.what) < _LONG else f"{finding.what[:_LONG]} ..."
    sections: dict[str, Any] = {"_base_": options.model, "data": data}
    data["crop_size"] = list(recipe.crop)
    why["data.crop_size"] = recipe.why["crop_size"]
    changes = [
        transform_changes(base, recipe),
        model_changes(base, recipe, len(classes), project.facts.rare),
        schedule_changes(base, recipe),
    ]
    data["workers"] = recipe.workers
    why["data.workers"] = recipe.why["workers"]
    sections["optim"] = {"batch_size": recipe.batch}
    why["optim.batch_size"] = recipe.why["batch_size"]
    for change in changes:
        for name, section in change.sections.items():
            sections[name] = {**sections[name], **section} if isinstance(sections.get(name), dict) else section
        why |= change.why
        project.remarks += change.remarks
    if options.model != STARTER:
        _published(base, recipe, sections, why)
    head = (
        f"Written by seg-kernel init {source}: {project.facts.images} training images, {len(classes)} classes,\n"
        f"for {project.machine}. Every line may be changed; seg-kernel config show prints what the base adds."
    )
    if options.model == STARTER:
        head += (
            "\nstarter's loss is cross-entropy and Dice, since cross-entropy alone may never predict a rare class; its"
            "\nlearning rate falls to 0, so that the last weights need no averaging (EMA)."
        )
    return render(sections, why, head)


def _published(base: Any, recipe: Recipe, sections: dict[str, Any], why: dict[str, str]) -> None:
    """Adapt what a published config sets for its own data and batch size."""
    optim = base.get("optim") or {}
    batch = optim.get("batch_size")
    plain = (optim.get("optimizer") or {}).get("type") == "SGD"  # Adam's steps do not grow with the gradient
    if batch and batch != recipe.batch and plain and not optim.get("base_batch_size"):
        sections["optim"]["base_batch_size"] = batch
        why["optim.base_batch_size"] = "the published learning rate is for this batch size, and is scaled to batch_size"
    sections["evaluate"] = {"metrics": [{"type": "IoUMetric"}]}
    why["evaluate.metrics"] = "the IoU of each class; published metrics may be for the published data only"


def _spec(one: _Set, path: Path | None, first: _Set | None) -> dict[str, Any]:
    """Return the config of a set; long arguments equal to those of the first set are references."""
    arguments = {key: value for key, value in one.part.arguments.items() if one.files is None or key != "split"}
    if first is not None:
        own = _spec(first, None, None)
        shared = [key for key in arguments if key in _MEANING and own.get(key) == arguments[key]]
        arguments |= {key: f"${{data.{first.part.name}.{key}}}" for key in shared}
    if path is not None:
        arguments["split" if one.files is not None else "names"] = str(path)
    return {"type": one.part.type, **arguments}


def _images(count: int) -> str:
    return f"{count} image{'s' if count != 1 else ''}"
