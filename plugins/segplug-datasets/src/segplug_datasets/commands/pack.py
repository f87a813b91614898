"""``seg-kernel data pack``: decode a data set once into memory-mapped files."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import yaml

from segkernel.cli import OVERRIDES
from segkernel.errors import DataError, UsageError, suggest

SPLITS = ("train", "val", "test")


@click.command("pack", no_args_is_help=True)
@click.argument("config", required=False, help="A YAML file, or the name of a packaged config.")
@click.argument("dest", required=False, help="The folder to write.")
@OVERRIDES
@click.option("--split", type=click.Choice(SPLITS), default="train", show_default=True, help="Set of the config.")
@click.option("--workers", type=click.IntRange(0), metavar="N", help="Worker processes. [default: one per CPU]")
@click.option("--shard-mb", type=click.IntRange(1), default=256, show_default=True, help="Size of a shard in MB.")
@click.option("--verify", metavar="DIR", type=click.Path(file_okay=False), help="Only verify all checksums of a pack.")
def command(
    config: str | None,
    dest: str | None,
    overrides: tuple[str, ...],
    split: str,
    workers: int | None,
    shard_mb: int,
    verify: str | None,
) -> None:
    """Pack the data set of CONFIG, a file or a name of the zoo, into the folder DEST.

    An interrupted run resumes; a finished pack is verified, and changed shards are packed again.

    \b
    Examples:
      seg-kernel data pack my.yaml packed/train
      seg-kernel data pack --verify packed/train
    """
    if verify:
        _verify(verify)
        return
    if not config or not dest:
        raise click.UsageError("give a CONFIG and the folder DEST, or --verify DIR")
    from segkernel.config import load_config

    loaded = load_config(config, overrides)
    count, size = _pack(loaded, split, dest, _processes() if workers is None else workers, shard_mb * 2**20)
    click.echo(f"packed {count} samples, {size / 1e9:.2f} GB, into {dest}\n")
    changes = _changes(loaded, split, dest)
    click.echo("to use it, add to a config:\n")
    click.echo(yaml.safe_dump(_tree(changes), sort_keys=False, default_flow_style=None, width=1000))
    given = [shlex.quote(f"{key}={_flow(value)}") for key, value in changes.items()]
    click.echo(f"or: seg-kernel run {shlex.join([config, *overrides])} {' '.join(given)}")


def _pack(config: Mapping[str, Any], split: str, dest: str, workers: int, shard_bytes: int) -> tuple[int, int]:
    """Pack a set of a config; return the number of samples and the size in bytes."""
    from segkernel import build
    from segplug_datasets.packed import pack

    data = config.get("data") or {}
    if not data.get(split):
        known = [name for name in SPLITS if data.get(name)]
        raise UsageError(f"the config has no set data.{split}; {suggest(split, known) or 'it has no data at all'}")
    spec = json.loads(json.dumps(data[split], default=str))
    dataset = build("datasets", data[split], path=f"data.{split}")
    with Progress(len(dataset), "packing") as progress:
        packed = pack(dataset, dest, workers, shard_bytes, spec, progress)
    return len(packed), sum(path.stat().st_size for path in Path(dest).glob("shard-*.bin"))


def _verify(folder: str) -> None:
    from segplug_datasets.packed import verify_pack

    problems = list(verify_pack(folder))
    for index, problem in problems:
        click.echo(f"sample {index}: {problem}")
    if problems:
        raise DataError(f"{len(problems)} samples are damaged or outdated", folder)
    click.echo(f"{folder} is valid")


class Progress:
    """A progress bar in a terminal, a line at every tenth elsewhere; both on standard error."""

    def __init__(self, total: int, what: str) -> None:
        self._bar: Any = click.progressbar(length=total, label=what, file=sys.stderr)
        self._what = what
        self._done, self._tenth = 0, 0

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            self._bar.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if sys.stderr.isatty():
            self._bar.__exit__(*error)

    def __call__(self, done: int, total: int) -> None:
        if sys.stderr.isatty():
            self._bar.update(done - self._done)
        elif done * 10 // total > self._tenth:
            click.echo(f"{self._what}: {done} of {total}", err=True)
        self._done, self._tenth = done, done * 10 // total


def _processes() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _changes(config: Any, split: str, dest: str) -> dict[str, Any]:
    """Return the changes to the config, by key; references to the set's arguments are replaced by their values."""
    changes: dict[str, Any] = {f"data.{split}": {"type": "PackedDataset", "path": dest}}
    for key, text in _texts(config.raw):
        if f"${{data.{split}." in text and not key.startswith(f"data.{split}."):
            value: Any = config.data
            for part in key.split("."):
                value = value[part]
            changes[key] = value
    return changes


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every string in a config with its dotted key; for lists that of the list."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, entry in value.items():
            yield from _texts(entry, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        yield from ((key, text) for entry in value for _, text in _texts(entry))


def _tree(changes: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in changes.items():
        *parents, last = key.split(".")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = json.loads(json.dumps(value, default=str))
    return tree


def _flow(value: Any) -> str:
    plain = json.loads(json.dumps(value, default=str))
    return yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=10**6).removesuffix("\n...\n").strip()
