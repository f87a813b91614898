"""The page of each package names what it brings."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

PLUGINS = sorted(Path(__file__).parents[2].glob("plugins/*"))
NO_COMPONENTS = ("zoo", "config_sources", "config_checks", "quick_checks", "former_names", "commands", "weight_formats",
                 "layers", "predictors")  # fmt: skip
ELSEWHERE = tuple(f"segkernel.{group}" for group in NO_COMPONENTS)


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)
def test_every_component_is_listed(plugin: Path) -> None:
    text = (plugin / "README.md").read_text("utf-8")
    try:
        points = distribution(plugin.name).entry_points
    except PackageNotFoundError:
        pytest.skip(f"{plugin.name} is not installed, as in the sessions of older releases of torch")
    names = {p.name for p in points if p.group.startswith("segkernel.") and p.group not in ELSEWHERE}
    assert not {name for name in names if f"`{name}`" not in text}
