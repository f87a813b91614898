"""Write docs/assets/zoo-costs.json: parameters and MACs of every packaged model, for the table of the zoo.

python tools/zoo_costs.py            # after changing models or packaged configs; some minutes on one core

Models are built without memory for their weights. MACs are those of one image of ``data.crop_size``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from segkernel.config import load_config
from segplug_heads.commands.cost import cost_of
from segplug_heads.configs.experiments import Experiment, list_experiments
from segplug_heads.configs.zoo import find_zoos

FILE = Path(__file__).resolve().parents[1] / "docs" / "assets" / "zoo-costs.json"


def experiments() -> list[Experiment]:
    """Return the packaged experiments; those of ``./local_configs`` are left out."""
    zoos = [zoo for zoo in find_zoos() if zoo.name != "local_configs"]
    return [each for each in list_experiments(zoos) if "unavailable" not in each.meta()]


def cost(name: str) -> list[float | None]:
    """Return millions of parameters and billions of MACs; None where they cannot be counted."""
    found: dict[str, Any] = cost_of(load_config(name))
    texts = [found.get("parameters", "").replace(",", ""), found.get("MACs", "").partition(" G")[0].replace(",", "")]
    numbers = [float(text) if text.replace(".", "").isdigit() else None for text in texts]
    return [round(numbers[0] / 1e6, 2) if numbers[0] else None, numbers[1]]


def main() -> None:
    """Count every experiment and write the file."""
    known: dict[tuple[Any, ...], list[float | None]] = {}
    costs = {}
    for each in experiments():
        key = (each.family and each.family.name, each.variant, each.data, str(each.own.get("model")))
        known[key] = known.get(key) or cost(each.name)
        costs[each.name] = known[key]
    FILE.parent.mkdir(exist_ok=True)
    lines = (f"{json.dumps(name)}: {json.dumps(value)}" for name, value in sorted(costs.items()))
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")


if __name__ == "__main__":
    main()
