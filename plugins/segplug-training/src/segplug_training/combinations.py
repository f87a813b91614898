"""The runs of a sweep: every combination of models, values and seeds, or random ones, as validated configs."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segkernel.config import Config, load_config
from segkernel.config.marks import to_builtin
from segkernel.errors import ConfigError
from segplug_training.search_space import drawn, grid, read_varied

COMPARED = ("optim", "schedule", "data", "engine")


@dataclass
class Entry:
    """One run of a sweep.

    Args:
        varied: Values of this combination by key, without the seed.
        seed: Seed of the run.
        config: File or name of the config.
        overrides: All overrides of the run, with the seed.
        digest: Hash of the resolved config.
    """

    varied: dict[str, Any]
    seed: int
    config: str
    overrides: list[str]
    digest: str = field(default="", repr=False)

    @property
    def name(self) -> str:
        """Name of the run's folder: its values, with a checksum where they cannot be a file name."""
        text = ",".join(f"{key}={value}" for key, value in {**self.varied, "seed": self.seed}.items())
        clean = re.sub(r"[^\w.=,+-]+", "_", text)[:100]
        return clean if clean == text else f"{clean}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def combinations(
    config: str,
    overrides: Sequence[str],
    seeds: int = 1,
    models: Sequence[str] = (),
    pretrained: bool = False,
    draws: int | None = None,
) -> list[Entry]:
    """Return every run of a sweep; the seeds of a combination are consecutive.

    Args:
        config: File or name; with ``models`` the part of the name after the model's, ``4xb2-20k_streetscenes``.
        overrides: ``KEY=VALUE`` for all, ``KEY=[A,B]`` or a `Range` to vary.
        seeds: Runs per combination; the seeds start at the config's.
        models: Zoo names without schedule and data.
        pretrained: Whether models start from the pretrained weights in their configs.
        draws: Number of random combinations, drawn with the config's seed; None is all of them.

    Raises:
        ConfigError: When a run's config is invalid.
        UsageError: As `read_varied`, `grid` and `drawn`.
    """
    fixed, varied = read_varied(overrides)
    entries = []
    for model in models or [""]:
        name = f"{model}_{config}" if model else config
        common = [*fixed, *([] if pretrained or not model else _from_scratch(name))]
        search_seed = load_config(name, common).get("seed") or 0
        for chosen in grid(varied) if draws is None else drawn(varied, draws, search_seed):
            own = [*common, *(f"{key}={json.dumps(value)}" for key, value in chosen.items())]
            loaded = load_config(name, own)
            first = loaded.get("seed") or 0
            labels = {**({"model": model} if model else {}), **chosen}
            for seed in range(first, first + seeds):
                given = [*own, f"seed={seed}"]
                digest = hashlib.sha256(load_config(name, given).to_yaml().encode()).hexdigest()
                entries.append(Entry(labels, seed, name, given, digest))
            _check(loaded)
    return entries


def _from_scratch(name: str) -> list[str]:
    model = load_config(name)["model"]
    found = [("model", model), ("model.backbone", model.get("backbone"))]
    return [f"~{path}.pretrained" for path, part in found if isinstance(part, Mapping) and "pretrained" in part]


def _check(config: Config) -> None:
    from segkernel.experiment import check

    if problems := check(config):
        raise ConfigError(problems)


# ---------------------------------------------------------------- differences between models


def unequal(entries: Sequence[Entry]) -> str:
    """Return a line for each setting that differs between models; empty when none does."""
    configs = {str(entry.varied["model"]): load_config(entry.config, entry.overrides) for entry in entries}
    flat = {
        model: dict(_flat({key: to_builtin(config.get(key)) for key in COMPARED})) for model, config in configs.items()
    }
    lines = []
    for key in sorted({key for values in flat.values() for key in values}):
        groups: dict[str, list[str]] = {}
        for model, values in flat.items():
            groups.setdefault(json.dumps(values.get(key, "-")), []).append(model)
        if len(groups) > 1:
            common = max(groups, key=lambda text: len(groups[text]))
            others = "; ".join(f"{text} for {', '.join(models)}" for text, models in groups.items() if text != common)
            lines.append(f"{key}: {common}, but {others}")
    return "\n".join(lines)


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _flat(entry, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def source_of(config: str) -> str:
    """Return a short name of a config, for the sweep's folder."""
    return Path(config).stem if Path(config).is_file() else config
