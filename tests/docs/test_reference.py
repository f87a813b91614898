"""The reference: every component is described, and its YAML example is one that a config accepts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from segkernel import experiment
from segkernel.building import check
from segkernel.catalog import Catalog
from segkernel.config import load_config
from segkernel.config.marks import to_builtin
from segkernel.config.text import read_mapping
from segplug_heads.reference.examples import GIVEN, PLACES, example_of
from segplug_heads.reference.find import all_keys, command_entries, component, component_entries, find
from segplug_heads.reference.yaml_text import flow

CATALOG = Catalog.discover()
VALUES = {
    "${data.num_classes}": 19, "${data.crop_size}": [512, 512], "${data.align_corners}": False, "${optim.batch_size}": 8
}  # fmt: skip


def resolved(value: Any) -> Any:
    """Return an example without references to the rest of a config."""
    if isinstance(value, dict):
        return {key: resolved(item) for key, item in value.items()}
    if isinstance(value, list):
        return [resolved(item) for item in value]
    return VALUES.get(value, value) if isinstance(value, str) else value


def written(group: str, text: str) -> Any:
    """Return the spec at its place in the text of an example."""
    value: Any = to_builtin(read_mapping(text, "example", []))
    for step in PLACES.get(group, ()):
        value = value[0] if step == "-" else value[step]
    return value


@pytest.mark.parametrize("group", [*PLACES, "layers", "parts"])
def test_components_are_described_with_a_valid_example(group: str) -> None:
    undocumented, invalid = [], {}
    given: dict[str, Any] = dict.fromkeys(GIVEN.get(group, ()))
    for row in CATALOG.rows_of(group):
        target = CATALOG.load_row(row)
        entry = component(group, row, target, CATALOG)
        undocumented += [f"{row.name}.{argument.name}" for argument in entry.arguments if not argument.text]
        undocumented += [row.name] * (not entry.text)
        undocumented += [f"{row.name}.{each.name}" for each in entry.arguments if not each.text.endswith((".", ")"))]
        spec = example_of(group, row, target, CATALOG)
        problems = check(group, resolved(spec), catalog=CATALOG, **given)
        assert flow(spec) == flow(written(group, entry.example[1]))
        invalid |= {row.name: list(map(str, problems))} if problems else {}
    assert (undocumented, invalid) == ([], {})


def test_the_examples_of_config_keys_are_configs(tmp_path: Path) -> None:
    file, problems = tmp_path / "example.yaml", {}
    for key in all_keys():
        entry = find(key, CATALOG)[0]
        file.write_text(f"_base_: quickstart\n{entry.example[1]}", "utf-8")
        if found := experiment.check(load_config(file)):
            problems[key] = list(map(str, found))
        if not all(text.endswith((".", ")")) for text in (entry.text, *(each.text for each in entry.arguments))):
            problems[key] = ["its description is cut off"]
    assert problems == {}


def test_every_argument_of_a_command_is_described() -> None:
    entries = {entry.title: entry for entry in command_entries(CATALOG)}
    missing = [f"{name} {each.name}" for name, entry in entries.items() for each in entry.arguments if not each.text]
    assert missing == []


def test_every_weight_format_has_an_example() -> None:
    entries = {entry.title: entry.example[1] for entry in component_entries("weight_formats", CATALOG)}
    assert "--format CaffeResNet" in entries["CaffeResNet"]
    assert ".safetensors" in entries["Safetensors"]
    assert [name for name, example in entries.items() if not example] == []


def test_the_costs_in_the_table_of_the_zoo_are_current(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "tools"))
    import zoo_costs

    costs = json.loads(zoo_costs.FILE.read_text("utf-8"))
    assert costs.keys() == {each.name for each in zoo_costs.experiments()}
    small = "segformer_mit-b0_8xb2-160k_ade20k-512x512"
    assert zoo_costs.cost(small) == costs[small]
