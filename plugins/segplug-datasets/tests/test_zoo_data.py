"""The packaged data parts equal those of the reference's experiments."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import segplug_datasets
from segkernel import build
from segkernel.building import check
from segkernel.config import load_config

ZOO = Path(segplug_datasets.__file__).parent / "zoo/data"
PARTS = sorted(path.stem for path in ZOO.glob("*.yaml"))
EXPERIMENTS = Path(__file__).parents[4] / "shared/zoo/experiments.jsonl"
# One experiment for each part; some families differ from their part and say so themselves.
USUAL = {
    "cityscapes-512x1024": "pspnet_r50-d8_4xb2-40k_cityscapes-512x1024",
    "cityscapes-769x769": "pspnet_r50-d8_4xb2-40k_cityscapes-769x769",
    "cityscapes-1024x1024": "segformer_mit-b0_8xb1-160k_cityscapes-1024x1024",
    "cityscapes-832x832": "icnet_r50-d8_4xb2-80k_cityscapes-832x832",
    "cityscapes-768x768": "setr_vit-l_naive_8xb1-80k_cityscapes-768x768",
    "cityscapes-680x680": "cgnet_fcn_4xb4-60k_cityscapes-680x680",
    "ade20k-512x512": "pspnet_r50-d8_4xb4-80k_ade20k-512x512",
    "ade20k-640x640": "beit-base_upernet_8xb2-160k_ade20k-640x640",
}


@pytest.mark.parametrize("part", PARTS)
def test_every_component_of_a_part_exists_with_valid_arguments(part: str) -> None:
    data = load_config(ZOO / f"{part}.yaml")["data"]
    for key in ("train", "val", "test"):
        assert not check("datasets", data[key])
    for key in ("train_transforms", "eval_transforms"):
        for transform in data[key]:
            assert not check("transforms", transform)
            if transform["type"] != "Albu" or find_spec("albumentations"):
                build("transforms", transform)


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    """The reference's experiments by name."""
    if not EXPERIMENTS.is_file():
        pytest.skip("the list of published experiments is not here")
    return {row["name"]: row for row in map(json.loads, EXPERIMENTS.read_text().splitlines())}


@pytest.mark.parametrize("part", USUAL)
def test_a_part_equals_the_published_data(part: str, published: dict[str, Any]) -> None:
    config, experiment = load_config(ZOO / f"{part}.yaml"), published[USUAL[part]]
    data, theirs = config["data"], experiment["data"]
    for ours, key in (("train", "train"), ("val", "val")):
        assert data[ours]["type"] == theirs[key]["type"]
        assert data[ours]["data_root"] == theirs[key]["data_root"].rstrip("/")
        assert data[ours]["data_prefix"] == theirs[key]["data_prefix"]
    assert data["train_transforms"] == steps(theirs["train"]["pipeline"])
    assert data["eval_transforms"] == steps(theirs["val"]["pipeline"])
    assert data["preprocess"]["size"] == experiment["model"]["data_preprocessor"]["size"]
    head = experiment["model"]["decode_head"]
    head = head[-1] if isinstance(head, list) else head
    assert (data["num_classes"], data["align_corners"]) == (head["num_classes"], head.get("align_corners", False))
    assert [metric["type"] for metric in config["evaluate"]["metrics"]] == [theirs["evaluator"]["type"]]


@pytest.mark.parametrize("part", ["cityscapes-769x769", "cityscapes-768x768"])
def test_square_crops_of_cityscapes_slide(part: str, published: dict[str, Any]) -> None:
    test_cfg = load_config(ZOO / f"{part}.yaml")["model"]["test_cfg"]
    assert test_cfg == published[USUAL[part]]["model"]["test_cfg"]


def steps(pipeline: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [step for step in pipeline if step["type"] not in ("LoadImageFromFile", "LoadAnnotations", "PackSegInputs")]
