"""The packaged recipes: they build, and their optimiser takes Detectron's steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from reference_models import of_detectron
from torch import nn

from segkernel import build, load_config
from segkernel.config.text import read_file
from segplug_instances import DetectionResNet

pytest.importorskip("segplug_heads", reason="it looks the names of recipes up")
ZOO = Path(__file__).parents[1] / "src" / "segplug_instances" / "zoo"


def model_config(name: str) -> dict[str, Any]:
    """Return the config of a recipe's model, without its weights."""
    config = dict(load_config(name)["model"])
    config |= {"pretrained": None, "box_head": {**config["box_head"]}}
    config["box_head"].pop("pretrained", None)
    return config


def model_of(name: str) -> Any:
    """Return the model of a recipe, without memory for its weights."""
    with torch.device("meta"):
        return build("segmentors", model_config(name))


@pytest.mark.parametrize("family", sorted(path.stem for path in (ZOO / "families").glob("*.yaml")))
def test_every_recipe_is_resolved_and_the_small_ones_build(family: str) -> None:
    problems: list[Any] = []
    data = read_file(ZOO / "families" / f"{family}.yaml", family, problems)
    assert data is not None
    assert not problems
    built = set()
    for name, experiment in data["experiments"].items():
        config = load_config(name)
        assert config["model"]["num_classes"] == config["data"]["num_classes"]
        assert (config["schedule"].get("iterations") or config["schedule"]["epochs"]) > 0
        if experiment["variant"] not in built and "101" not in name:
            built.add(experiment["variant"])
            model = model_of(name)
            assert model.outputs["seg"].classes == config["data"]["num_classes"]
            assert (model.mask_head is not None) == ("mask" in name)
            assert (model.keypoint_head is not None) == ("keypoint" in name)
            assert model.outputs["seg"].convention == config["model"]["convention"]
    assert built


@pytest.mark.parametrize(
    "name",
    [
        "e2e_faster_rcnn_R-50-FPN_1x",
        "e2e_mask_rcnn_R-50-FPN_1x",
        "e2e_mask_rcnn_R-50-C4_1x",
        "e2e_keypoint_rcnn_R-50-FPN_1x",
    ],
)
def test_recipes_are_the_models_that_recorded_weights_fit(golden: Any, name: str) -> None:
    facts, _ = golden.load(f"pkl/{name}")
    config = {"SCORE_THRESH": 0.05, "TEST_NMS": 0.5, **facts["config"]}
    limits = {"pre_nms": 1000, "post_nms": 1000}
    with torch.device("meta"):
        known = of_detectron(name, config, limits, "detectron")
    recipe = model_of(name)
    shapes = {key: value.shape for key, value in recipe.state_dict().items()}
    assert shapes == {key: value.shape for key, value in known.state_dict().items()}
    for part in ("box_head", "mask_head", "keypoint_head"):
        head, other = getattr(recipe, part), getattr(known, part)
        assert (head is None) == (other is None)
        if head is not None:
            assert vars(head.pooler) == vars(other.pooler)
    options = recipe.outputs["seg"]
    assert (options.score_threshold, options.nms_threshold) == (config["SCORE_THRESH"], config["TEST_NMS"])


PUBLISHED = {
    # torchvision's documentation: 91 classes, of which the first is background; frozen norms are not counted
    "fasterrcnn_resnet50_fpn": 41755286,
    "maskrcnn_resnet50_fpn": 44401393,
    "keypointrcnn_resnet50_fpn": 59137258,
    "fasterrcnn_resnet50_fpn_v2": 43712278,
    "maskrcnn_resnet50_fpn_v2": 46359409,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipes_of_torchvision_have_the_published_number_of_parameters(name: str) -> None:
    config = model_config(name)
    config |= {"num_classes": 1 if "keypoint" in name else 90}
    with torch.device("meta"):
        model = build("segmentors", config)
    background = {"box_head.bbox_pred": 4, "mask_head.mask_logits": 1}  # channels that are left out here
    left_out = sum(
        channels * (layer.weight[0].numel() + 1)
        for path, channels in background.items()
        if (layer := dict(model.named_modules()).get(path)) is not None
    )
    assert sum(value.numel() for value in model.parameters()) + left_out == PUBLISHED[name]


@pytest.mark.parametrize(
    ("options", "published"),
    [
        ({"depth": 50}, 25557032),
        ({"depth": 101}, 44549160),
        ({"depth": 152}, 60192808),
        ({"depth": 101, "groups": 32, "base_width": 8}, 88791336),
        ({"depth": 101, "groups": 64, "base_width": 4}, 83455272),
    ],
)
def test_bodies_have_the_published_number_of_parameters(options: dict[str, Any], published: int) -> None:
    with torch.device("meta"):
        body = DetectionResNet(norm_cfg={"type": "BN"}, **options)
    assert sum(value.numel() for value in body.parameters()) == published - (2048 + 1) * 1000  # without the classifier


@pytest.mark.parametrize("method", ["linear", "constant"])
def test_the_optimiser_takes_detectrons_steps(golden: Any, method: str) -> None:
    training = pytest.importorskip("segplug_training")
    from segkernel.schedules import RunSchedules
    from segplug_training.schedules import ConstantLR, LinearLR, MultiStepLR

    params, inputs, outputs = golden.case(*golden.load("parts/d1_solver"), f"warmup_{method}")
    module = nn.Linear(1, 1)
    module.weight, module.bias = (nn.Parameter(torch.from_numpy(row.copy())) for row in inputs["p0"])
    recipe = load_config("e2e_mask_rcnn_R-50-FPN_1x")
    groups = training.Paramwise(**recipe["optim"]["paramwise"])(module, params["BASE_LR"], params["WEIGHT_DECAY"])
    optimizer = torch.optim.SGD(groups, lr=params["BASE_LR"], momentum=recipe["optim"]["optimizer"]["momentum"])
    end = params["WARM_UP_ITERS"] + 1  # 501 in the recipe
    warm_up = LinearLR(params["WARM_UP_FACTOR"], end=end) if method == "linear" else ConstantLR(1 / 3, end=end)
    steps = MultiStepLR(params["STEPS"][1:], params["GAMMA"])
    schedules = RunSchedules([warm_up, steps], optimizer, len(params["lrs"]), epoch=1)  # type: ignore[arg-type]
    for step, (rates, gradients) in enumerate(zip(params["lrs"], inputs["grads"])):
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(rates, rel=1e-9)
        module.weight.grad, module.bias.grad = (torch.from_numpy(row.copy()) for row in gradients)
        optimizer.step()
        found = torch.stack([module.weight.detach(), module.bias.detach()])
        assert golden.ok(found, outputs["without_correction"][step]), step
        schedules.step(step + 1)
    assert [rule["end"] for rule in recipe["schedule"]["lr"][:1]] == [501]
    norm = training.Paramwise(**recipe["optim"]["paramwise"])(nn.GroupNorm(1, 1), 0.02, 1e-4)
    assert [(group["lr"], group["weight_decay"]) for group in norm] == [(0.02, 0.0), (0.04, 0.0)]
