"""Entries of the configs of the zoo, by name."""

from __future__ import annotations

from collections.abc import Iterator

from segplug_heads.commands.models import cell
from segplug_heads.configs.experiments import find_experiment, list_experiments, with_all_words
from segplug_heads.configs.zoo import find_zoos
from segplug_heads.reference.entry import Argument, Entry


def config_entries(name: str) -> Iterator[Entry]:
    """Yield the entry of a config, published or MODEL_SCHEDULE_DATA, if there is one."""
    found = find_experiment(name, find_zoos())
    if found is None:
        return
    parts = {"family": found.family and found.family.name, "variant": found.variant}
    facts = {**parts, "schedule": found.schedule, "data": found.data, **found.meta()}
    yield Entry(
        name,
        "config of the zoo",
        "Its parts, paper and published scores; `seg-kernel models show` also counts parameters and FLOPs.",
        [Argument(key, "", "", cell(value)) for key, value in facts.items() if value is not None],
        example=("console", "".join(f"seg-kernel {verb} {name}\n" for verb in ("models show", "config show", "run"))),
        source=found.place,
        heading="facts",
    )


def near_configs(name: str) -> list[str]:
    """Return the shortest name of a config that holds every word of ``name``; empty if none does."""
    return with_all_words(name, (each.name for each in list_experiments(find_zoos())))[:1]
