"""``seg-kernel models``: the configs of the zoo, by name."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from fnmatch import fnmatchcase
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import click

from segkernel.cli import SIZE, table

if TYPE_CHECKING:
    from segplug_heads.configs.experiments import Experiment

log = logging.getLogger(__name__)
_NAMED_SCORES = ("box_AP", "mask_AP", "keypoint_AP", "Dice", "RMSE")


class _Models(click.Group):
    """A group whose argument may also be a pattern: ``models 'pspnet*'`` is ``models list 'pspnet*'``."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            args = ["list", *args]
        return super().resolve_command(ctx, args)


@click.group("models", cls=_Models, invoke_without_command=True, context_settings={"ignore_unknown_options": True})
@click.pass_context
def command(ctx: click.Context) -> None:
    """List the configs of the zoo: models [GLOB]; or show one: models show NAME.

    \b
    Examples:
      seg-kernel models 'segformer*'
      seg-kernel models show quickstart
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_models)


@command.command("list")
@click.argument(
    "pattern", required=False, metavar="[GLOB]", help="Part of the names, or a pattern such as 'segformer*ade20k*'."
)
@click.option("--family", metavar="NAME", help="Only this family.")
@click.option("--data", metavar="GLOB", help="Only these data parts, such as 'ade20k*'.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_models(
    pattern: str | None = None, family: str | None = None, data: str | None = None, as_json: bool = False
) -> None:
    """List names, families, data parts and published scores; GLOB without a star matches anywhere.

    Scores are mIoU in per cent unless they are named.

    Configs of other config sources are listed by name; they have no families or data parts.

    \b
    Examples:
      seg-kernel models list 'pspnet*' --data 'ade20k*'
    """
    from segkernel.errors import UsageError, suggest
    from segplug_heads.configs.experiments import list_experiments
    from segplug_heads.configs.zoo import find_zoos

    entries = list(list_experiments(find_zoos()))
    names = [entry.family.name if entry.family else "" for entry in entries]
    chosen = [
        entry
        for entry, name in zip(entries, names)
        if _matches(entry.name, pattern) and family in (None, name) and _matches(entry.data or "", data)
    ]
    others = [] if family or data else [row for row in _of_other_sources() if _matches(row["name"], pattern)]
    if not (chosen or others) and (pattern or family or data):
        wanted, known = (family, names) if family and family not in names else (pattern or data or "", names)
        known = known if wanted == family else [entry.name for entry in entries]
        hint = suggest(str(wanted), known) or "no package with configs is installed"
        raise UsageError(f"no model matches {wanted!r}; {hint}")
    rows = [*map(_row, chosen), *others]
    if as_json:
        click.echo(json.dumps([{key: row[key] for key in row if key != "score"} for row in rows], indent=1))
        return
    columns = ("name", "family", "data", "score", "from")
    click.echo(table([columns, *([cell(row[name]) for name in columns] for row in rows)]))
    click.echo(f"\n{len(rows)} configs; any MODEL_SCHEDULE_DATA of their parts works, too")
    click.echo("next: seg-kernel models show NAME, seg-kernel run NAME" if rows else "next: pip install segplug-heads")


@command.command("show")
@click.argument(
    "config", metavar="NAME", help="The name of a packaged config, a YAML file, or a folder or address of Hugging Face."
)
@click.option("--shape", type=SIZE, help="Of the image that FLOPs are counted for. [default: the crop size]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(config: str, shape: tuple[int, int] | None, as_json: bool) -> None:
    """Show the parts of a model, its paper, published scores and weights; with torch, its parameters and FLOPs.

    \b
    Examples:
      seg-kernel models show segformer_mit-b0_8xb2-160k_ade20k-512x512
      seg-kernel models show path/to/segformer-b0-finetuned-ade-512-512
    """
    from segkernel.config import load_config

    facts = _facts(config)
    if find_spec("torch") and "unavailable" not in facts:
        from segplug_heads.commands.cost import cost_of

        log.info("building the model to count its parameters and FLOPs")
        facts |= cost_of(load_config(config), shape)
    if as_json:
        click.echo(json.dumps(facts, indent=1))
        return
    for key, value in facts.items():
        if value is not None:
            click.echo(f"{key:<12} {cell(value)}")
    first = "predict" if "model_type" in facts else "run"
    click.echo(f"next         seg-kernel config show {facts['name']}, seg-kernel {first} {facts['name']}")


@command.command("download")
@click.argument("config", metavar="NAME", help="A published name; or an address of weights, open-mmlab://resnet50_v1c.")
def download(config: str) -> None:
    """Download the published weights of a model into the cache; print the file.

    \b
    Examples:
      seg-kernel models download segformer_mit-b0_8xb2-160k_ade20k-512x512
      seg-kernel models download open-mmlab://resnet50_v1c
    """
    from segkernel.checkpoint import locate
    from segkernel.errors import UsageError

    if "://" in config:
        click.echo(locate(config))
        return
    entry = _find(config)
    weights = entry.meta().get("weights")
    if not weights:
        raise UsageError(f"{entry.name} was published without weights; seg-kernel models show {entry.name}")
    click.echo(locate(weights))
    click.echo(f"next: seg-kernel predict {entry.name} IMAGE", err=True)


def _facts(name: str) -> dict[str, Any]:
    """Return what is known of a packaged config, or of one of another config source, without torch."""
    from segkernel.catalog import Catalog
    from segkernel.config import load_config
    from segkernel.config.marks import to_builtin
    from segplug_heads.hugging_face.source import HuggingFaceModels

    if found := HuggingFaceModels(Catalog.discover()).find(name):
        return {"name": name, "file": found.place, **to_builtin(load_config(name).meta)}
    entry = _find(name)
    facts: dict[str, Any] = {"name": entry.name, "family": entry.family.name if entry.family else None}
    facts |= {"variant": entry.variant, "schedule": entry.schedule, "data": entry.data}
    return facts | {"listed at": entry.place, "file": str(entry.path), **to_builtin(entry.meta())}


def _find(name: str) -> Experiment:
    from segkernel.errors import ConfigError
    from segplug_heads.configs.experiments import find_experiment, unknown
    from segplug_heads.configs.zoo import find_zoos

    zoos = find_zoos()
    entry = find_experiment(name, zoos)
    if entry is None:
        raise ConfigError(unknown(name, zoos))
    return entry


def _matches(text: str, pattern: str | None) -> bool:
    glob = pattern if pattern and set(pattern) & set("*?[") else f"*{pattern or ''}*"
    return fnmatchcase(text, glob)


def _row(entry: Experiment) -> dict[str, Any]:
    family = entry.family.name if entry.family else None
    meta = entry.meta()
    named = {key: meta[key] for key in _NAMED_SCORES if key in meta}
    score = meta.get("mIoU", cell(named) if named else None)
    row = {"name": entry.name, "family": family, "data": entry.data, "mIoU": meta.get("mIoU"), "from": entry.zoo.name}
    return row | named | {"score": score}


def _of_other_sources() -> Iterator[dict[str, Any]]:
    """Yield a row for every config of the other sources that are installed."""
    from segkernel.catalog import Catalog
    from segkernel.config.sources import installed_sources
    from segplug_heads.configs.source import ZooSource

    for source in installed_sources(Catalog.discover()):
        for name in () if isinstance(source, ZooSource) else source.names():
            distribution, _, short = name.rpartition("::")
            yield {"name": short, "family": None, "data": None, "mIoU": None, "from": distribution, "score": None}


def cell(value: Any) -> str:
    """Return a plain value on one line, as people write it."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {cell(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(cell(item) for item in value)
    return "-" if value is None else str(value)
