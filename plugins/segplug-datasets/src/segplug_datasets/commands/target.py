"""The arguments of ``data check``, ``data stats`` and ``data browse``: a config, folders, or a data set class."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml

from segkernel.errors import ConfigError, Problem, UsageError

if TYPE_CHECKING:
    from segkernel.config import Config
    from segkernel.config.sections import TTA
    from segplug_datasets.doctor.parts import Part
    from segplug_datasets.doctor.sample_info import SampleInfo

MODEL_SUFFIXES = (
    *(".pt", ".pth", ".ckpt", ".safetensors"),
    *(".onnx", ".xml", ".torchscript", ".pt2", ".aoti", ".pte", ".mlpackage", ".engine"),
)
_OPTIONS = (
    click.argument(
        "target", nargs=-1, metavar="[CONFIG] [KEY=VALUE]...", help="A config, and changes of it; none with --images."
    ),
    click.option("--images", metavar="DIR", help="Folder of images, instead of a config."),
    click.option("--masks", metavar="DIR", help="Folder of masks."),
    click.option("--classes", metavar="A,B,...", help="Names of the classes in --masks."),
    click.option("--type", "kind", metavar="NAME", help="A data set class, instead of a config: CamVid."),
    click.option("--root", metavar="DIR", help="data_root of --type."),
)


def target_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the arguments that select the data."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def resolve(
    target: Sequence[str],
    images: str | None,
    masks: str | None,
    classes: str | None,
    kind: str | None,
    root: str | None,
) -> tuple[list[Part], Config | None]:
    """Return the sets selected by the arguments, and their config, if any.

    Raises:
        UsageError: When several sources are given, or none.
    """
    from segkernel.config import load_config
    from segplug_datasets.doctor.parts import parts_of_config, parts_of_folders, parts_of_type

    pairs = [entry for entry in target if "=" in entry or entry.startswith("~")]
    configs = [entry for entry in target if entry not in pairs]
    ways = [bool(configs), images is not None, kind is not None]
    if sum(ways) != 1 or len(configs) > 1:
        raise UsageError("give one of: a config; --images and --masks; --type and --root")
    if (masks or classes) and images is None:
        raise UsageError("--masks and --classes need --images")
    if configs:
        config = load_config(configs[0], pairs)
        return parts_of_config(config), config
    if images is not None:
        names = [name.strip() for name in (classes or "").split(",") if name.strip()]
        return parts_of_folders(images, masks, names, _arguments(pairs)), None
    return parts_of_type(str(kind), root, _arguments(pairs)), None


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the ``KEY=VALUE`` and ``~KEY`` among arguments, and the others, which name files."""
    is_file = [
        Path(entry).exists() or not ("=" in entry or (entry.startswith("~") and entry[1:2] not in ("", "/", "\\")))
        for entry in arguments
    ]
    files = [entry for entry, known in zip(arguments, is_file) if known]
    return [entry for entry, known in zip(arguments, is_file) if not known], files


def is_model(argument: str) -> bool:
    """Whether an argument names a run directory, a checkpoint or an exported file."""
    return argument.lower().endswith(MODEL_SUFFIXES) or Path(argument, "checkpoints").is_dir()


def tta_of(config: Mapping[str, Any] | None) -> TTA:
    """Return the test-time augmentation of a config, or the one usual in publications."""
    from segkernel import build
    from segkernel.config.sections import Evaluation

    given = ((config or {}).get("evaluate") or {}).get("tta")
    usual: TTA = {"scales": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75), "flip": True}
    return build(Evaluation, {"tta": given}, path="evaluate").tta or usual


def _arguments(pairs: Sequence[str]) -> dict[str, Any]:
    """Return ``key=value`` as arguments of a data set, values read as YAML."""
    given: dict[str, Any] = {}
    for pair in pairs:
        key, _, text = pair.partition("=")
        try:
            given[key] = yaml.safe_load(text)
        except (RecursionError, yaml.YAMLError) as error:
            raise UsageError(f"{pair}: {text!r} is not a YAML value") from error
    return given


def inspect_with_progress(parts: list[Part], workers: int | None) -> list[tuple[Part, list[SampleInfo]]]:
    """Inspect all files, with a progress bar on a terminal."""
    from segplug_datasets.doctor.inspect import inspect

    total = sum(len(part.pairs) for part in parts)
    if not sys.stderr.isatty():
        return inspect(parts, workers)
    with click.progressbar(length=total, label="inspecting", file=sys.stderr) as bar:
        return inspect(parts, workers, bar.update)


def exporter_spec(text: str | None) -> Any:
    """Return the value of an option ``--exporter``; raise `ConfigError` when it is no YAML."""
    from segkernel.config.text import read_text

    problems: list[Problem] = []
    spec = read_text(text, "--exporter", problems) if text else None
    if problems:
        raise ConfigError(problems)
    return spec
