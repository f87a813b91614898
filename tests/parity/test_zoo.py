"""The packaged families: they load, are in order, have the published sizes, and say what was published."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import golden
import pytest
import torch

from segkernel.build import signature
from segkernel.catalog import Catalog
from segkernel.config import load_config
from segkernel.config.experiments import list_experiments
from segkernel.config.zoo import find_zoos
from segkernel.experiment import check, make_model
from segkernel.interfaces.model import Segmentor

HERE = Path(__file__).parent
EXPERIMENTS = {
    entry.name: entry for entry in list_experiments(find_zoos()) if entry.family and entry.zoo.name == "segplug-heads"
}
FAMILIES = {entry.family.name: entry.family for entry in EXPERIMENTS.values() if entry.family}
VARIANTS = [(name, str(variant)) for name, family in FAMILIES.items() for variant in family.section("variants")]
CASES = list(golden.find(HERE / "cases"))
FILES = ("LoadImageFromFile", "LoadAnnotations", "PackSegInputs")  # reading and packing are not transforms here


def model_of(family: str, variant: str, *overrides: str) -> Segmentor:
    """Build a variant for Cityscapes, without memory for its weights."""
    with torch.device("meta"):
        return make_model(load_config(f"{family}_{variant}_8xb4-160k_cityscapes-512x1024", list(overrides)))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_is_in_order(name: str) -> None:
    assert check(load_config(name)) == []


@pytest.mark.parametrize(("family", "variant"), VARIANTS)
def test_variant_builds(family: str, variant: str) -> None:
    model = model_of(family, variant)
    assert model(torch.empty(2, 3, 64, 64, device="meta")).shape[1] == 19


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_variant_has_the_published_size(path: Path) -> None:
    case = golden.Golden.load(path)
    variant = re.split(r"_\dxb\d", path.stem)[0].removeprefix(f"{path.parent.name}_")
    model = model_of(path.parent.name, variant, f"data.num_classes={case.facts['num_classes']}")
    assert sum(parameter.numel() for parameter in model.parameters()) == case.facts["num_params"]
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == {
        key: shape for key, (shape, _) in case.keys.items()
    }


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_says_what_was_published(name: str, published: dict[str, dict[str, Any]]) -> None:
    ours, theirs = load_config(name).data, published[name]
    data, optim, schedule = ours["data"], ours["optim"], ours["schedule"]
    assert least("segmentors", ours["model"]) == least("segmentors", theirs["model"])
    assert optim["optimizer"] == theirs["optim"]["optimizer"]
    assert optim.get("paramwise") == theirs["optim"].get("paramwise_cfg")
    assert optim.get("clip_grad") == theirs["optim"].get("clip_grad")
    assert ("amp" in ours.get("engine", {})) == (theirs["optim"]["type"] == "AmpOptimWrapper")
    assert optim["batch_size"] == theirs["data"]["batch_size"] * devices(name)
    assert schedule["iterations"] == theirs["loop"]["max_iters"]
    assert schedule["val_interval"] == theirs["loop"]["val_interval"]
    assert [finished(spec, schedule["iterations"]) for spec in schedule["lr"]] == [
        finished(spec, schedule["iterations"]) for spec in theirs["schedule"]
    ]
    pipeline = [step for step in theirs["data"]["train"]["pipeline"] if step["type"] not in FILES]
    assert data["train_transforms"] == pipeline
    assert data["preprocess"]["size"] == theirs["model"]["data_preprocessor"]["size"]


@pytest.fixture(scope="session")
def published(full_cases: Path) -> dict[str, dict[str, Any]]:
    """Return the facts of the published experiments by name."""
    path = full_cases.parent / "zoo" / "experiments.jsonl"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return {entry["name"]: entry for entry in map(json.loads, path.read_text().splitlines())}


def least(group: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a spec without what its class takes by default, nor what is not the model's."""
    arguments = signature(Catalog.discover().load(group, spec["type"]))
    kept = {"type": spec["type"]}
    for key, value in spec.items():
        if key not in arguments or key == "pretrained" or value == {} or same(value, arguments[key].default):
            continue
        kept[key] = plain(value)
    return kept


def plain(value: Any) -> Any:
    """Apply `least` to nested specs, and drop what layer configs say by default."""
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    if not isinstance(value, Mapping):
        return value
    for group in ("backbones", "heads", "losses", "parts"):
        if value.get("type") in Catalog.discover().names(group):
            return least(group, value)
    return {key: entry for key, entry in value.items() if (key, entry) != ("requires_grad", True)}


def same(value: Any, default: Any) -> bool:
    """Compare with a default; a loss that is the default loss is none, and whole images are the default."""
    if default is None and isinstance(value, Mapping):
        return value == {"mode": "whole"} or (
            value.get("type") == "CrossEntropyLoss" and len(least("losses", value)) == 1
        )
    return value == (list(default) if isinstance(default, tuple) else default)


def finished(spec: Mapping[str, Any], iterations: int) -> dict[str, Any]:
    """Return a schedule with what it does by default."""
    usual = {"by_epoch": False, "begin": 0, "end": iterations}
    return {**usual, **{key: value for key, value in spec.items() if value is not None}}


def devices(name: str) -> int:
    """Return the number of devices of a published run."""
    return int(name.split("xb")[0].rsplit("_", 1)[1])
