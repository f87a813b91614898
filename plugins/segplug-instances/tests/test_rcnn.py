"""`RCNN` with small models: batches, padding, images without objects, options of parts, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from segkernel import Predictor
from segkernel.building import build, check
from segkernel.errors import ConfigError, UsageError
from segkernel.sample import Sample, Targets
from segplug_instances.ground_truth import ground_truths
from segplug_instances.rcnn import RCNN, image_sizes
from segplug_instances.transforms import DetectionResize

CONVENTIONS = ("torchvision", "detectron2", "detectron", "detectron_pytorch")
PYRAMID: dict[str, Any] = {
    "type": "RCNN",
    "backbone": {"type": "DetectionResNet", "base_channels": 8},
    "neck": {"type": "DetectionFPN", "in_channels": [32, 64, 128, 256], "out_channels": 8},
    "box_head": {"type": "MLPBoxHead", "fc_channels": 16},
    "mask_head": {"type": "MaskHead", "num_convs": 1, "channels": 8},
    "keypoint_head": {"type": "KeypointHead", "num_convs": 1, "channels": 8},
    "num_classes": 3,
    "output": {"type": "Instances", "score_threshold": 0.0, "limit": 6},
}
C4: dict[str, Any] = {
    "type": "RCNN",
    "backbone": {"type": "DetectionResNet", "base_channels": 8, "num_stages": 3, "out_indices": [2]},
    "rpn": {"type": "RPN", "anchors": {"type": "Anchors", "sizes": [[16, 32, 64]]}},
    "box_head": {"type": "Res5BoxHead"},
    "mask_head": {"type": "MaskHead", "trunk": "shared", "channels": 8},
    "num_classes": 3,
    "size_divisor": 1,
    "output": {"type": "Instances", "score_threshold": 0.0, "limit": 6},
}


def model_of(spec: dict[str, Any], **more: Any) -> RCNN:
    torch.manual_seed(0)
    model = build("segmentors", spec | more)
    for parameter in model.parameters():
        if parameter.ndim == 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)  # scores of boxes differ
    return model


def images(*sizes: tuple[int, int]) -> Tensor:
    height, width = (max(lengths) for lengths in zip(*sizes))
    batch = torch.zeros(len(sizes), 3, height, width)
    for number, (image, size) in enumerate(zip(batch, sizes)):
        image[:, : size[0], : size[1]] = torch.randn(3, *size, generator=torch.Generator().manual_seed(number))
    return batch


def targets(*counts: int, crowd: bool = False) -> Targets:
    boxes = torch.tensor([[4.0, 6.0, 40.0, 50.0], [20.0, 10.0, 60.0, 30.0]])
    masks = torch.zeros(2, 64, 96, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist()):
        mask[y1:y2, x1:x2] = 1
    points = boxes.unflatten(1, (2, 2)).mean(1)[:, None].expand(2, 17, 2)
    keypoints = torch.cat([points, torch.full((2, 17, 1), 2.0)], 2)
    fields = {"boxes": boxes, "classes": torch.tensor([0, 2]), "crowd": torch.tensor([crowd, crowd]),
              "instances": masks, "keypoints": keypoints}  # fmt: skip
    return Targets({name: [value[:count] for count in counts] for name, value in fields.items()})


@pytest.mark.parametrize("spec", [PYRAMID, C4], ids=["fpn", "c4"])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_training_step_reaches_all_parameters(spec: dict[str, Any], convention: str) -> None:
    model = model_of(spec, convention=convention).train()
    losses = model.loss(images((64, 96), (60, 70)), targets(2, 0))
    total = sum(value for name, value in losses.items() if "loss" in name)
    assert torch.isfinite(total)  # type: ignore[arg-type]
    total.backward()  # type: ignore[union-attr]
    assert not [name for name, value in model.named_parameters() if value.grad is None]


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_an_image_alone_and_in_a_padded_batch_have_the_same_objects(convention: str) -> None:
    model = model_of(PYRAMID | {"rpn": {"type": "RPN", "post_nms": [20, 20]}}, convention=convention).eval()
    both, sizes = images((64, 96), (52, 70)), [(64, 96), (52, 70)]
    with torch.no_grad():
        together = model.predict(both)["seg"]
        for number, (height, width) in enumerate(sizes):
            # The strides of torchvision's anchors depend on the size of the batch.
            alone = both[number : number + 1, :, :height, :width]
            if convention == "torchvision":
                alone = both[number : number + 1]
            (found,) = model.predict(alone, [(height, width)])["seg"]
            assert torch.equal(found["labels"], together[number]["labels"])
            for name in ("boxes", "scores", "masks", "keypoint_maps"):
                assert torch.allclose(found[name], together[number][name], atol=1e-3), name


@pytest.mark.parametrize("spec", [PYRAMID, C4], ids=["fpn", "c4"])
def test_boxes_stay_in_the_image(spec: dict[str, Any]) -> None:
    model = model_of(spec).eval()
    with torch.no_grad():
        found = model.predict(images((64, 96), (52, 70)))["seg"]
    for (height, width), each in zip([(64, 96), (52, 70)], found):
        assert len(each["boxes"]) == 6
        assert (each["boxes"] >= 0).all()
        assert (each["boxes"] <= torch.tensor([width, height, width, height])).all()


def test_an_image_without_objects_has_empty_results() -> None:
    model = model_of(PYRAMID, output={"type": "Instances", "score_threshold": 1.0}).eval()
    with torch.no_grad():
        (found,) = model.predict(images((64, 96)))["seg"]
        assert [tuple(value.shape) for value in found.values()] == [(0, 4), (0,), (0,), (0, 28, 28), (0, 17, 56, 56)]
        assert model(images((64, 96))).shape == (1, 100, 6)


@pytest.mark.parametrize("truth", [targets(0), targets(2, crowd=True)], ids=["none", "crowds"])
def test_a_batch_without_objects_trains_on_background(truth: Targets) -> None:
    losses = model_of(PYRAMID).train().loss(images((64, 96)), truth)
    assert {name for name, value in losses.items() if "loss" in name and value == 0} == {
        "loss_rpn_bbox", "loss_bbox", "loss_mask", "loss_keypoint",
    }  # fmt: skip


def test_proposals_in_a_crowd_are_not_background() -> None:
    model = model_of(PYRAMID, box_head={"type": "MLPBoxHead", "fc_channels": 16, "crowd_overlap": 0.5})
    proposals = [(torch.tensor([[5.0, 7.0, 30.0, 40.0], [70.0, 40.0, 90.0, 60.0]]), torch.zeros(2))]
    truths = ground_truths(targets(1, crowd=True), [(64, 96)], model.convention)
    samples = model.box_head.sample(proposals, truths)
    assert samples.boxes[0].tolist() == [[70.0, 40.0, 90.0, 60.0]]


def test_a_model_of_proposals_has_boxes_without_class() -> None:
    spec = {key: value for key, value in PYRAMID.items() if "head" not in key}
    model = model_of(spec)
    assert model.outputs["seg"].classes == 1
    assert model.train().loss(images((64, 96)), targets(2)).keys() == {"loss_rpn_cls", "loss_rpn_bbox"}
    with torch.no_grad():
        (found,) = model.eval().predict(images((64, 96)))["seg"]
    assert found.keys() == {"boxes", "scores", "labels"}
    assert (found["scores"].diff() <= 0).all()


@pytest.mark.parametrize(
    "more",
    [
        {"rpn": {"type": "RPN", "softmax": True, "channels": 12, "num_convs": 2}},
        {"box_head": {"type": "MLPBoxHead", "fc_channels": 16, "class_agnostic": True}},
        {"box_head": {"type": "MLPBoxHead", "num_convs": 1, "conv_channels": 8, "num_fcs": 1, "fc_channels": 16}},
        {"mask_head": {"type": "MaskHead", "num_convs": 0, "class_agnostic": True}},
        {"mask_head": {"type": "MaskHead", "trunk": "res5"}},
        {
            "neck": {**PYRAMID["neck"], "num_outs": 1},
            "rpn": {"type": "RPN", "anchors": {"type": "Anchors", "sizes": [[32, 64]]}},
        },
        {
            "box_head": {
                "type": "MLPBoxHead",
                "fc_channels": 16,
                "pooler": {"type": "RoIPooler", "output_size": 7, "kind": "pool"},
            }
        },
    ],
    ids=["softmax", "agnostic", "convs", "agnostic-masks", "v0up", "P2only", "RoIPool"],
)
def test_variants_train_and_predict(more: dict[str, Any]) -> None:
    model = model_of(PYRAMID, **more)
    losses = model.train().loss(images((64, 96)), targets(2))
    sum(value for name, value in losses.items() if "loss" in name).backward()  # type: ignore[union-attr]
    assert not [name for name, value in model.named_parameters() if value.grad is None]
    with torch.no_grad():
        (found,) = model.eval().predict(images((64, 96)))["seg"]
    assert found["masks"].shape[1:] in ((28, 28), (14, 14))


def test_a_known_scale_is_taken_out_before_boxes_are_decoded() -> None:
    model = model_of(PYRAMID, convention="detectron").eval()
    with torch.no_grad():
        plain, scaled = (model.predict(images((64, 96)), scales=each)["seg"][0] for each in (None, [2.0]))
    assert not torch.equal(plain["boxes"], scaled["boxes"])  # a pixel is half as large
    assert (plain["boxes"] - scaled["boxes"]).abs().max() < 8


@pytest.mark.parametrize("convention", ["detectron", "detectron2"])
def test_inference_gives_the_sizes_that_boxes_are_decoded_with(convention: str) -> None:
    output = {**PYRAMID["output"], "resize_rule": [48, 200]}
    model = model_of(PYRAMID, convention=convention, output=output).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 75, 3), np.uint8)
    pixels[-3:] = 0  # is not padding, though 0 after normalisation
    transforms = [DetectionResize((48,), 200, convention)]
    options = {"mean": [0.0] * 3, "std": [50.0] * 3, "test_cfg": {"size_divisor": 32}}
    predictor = Predictor(model, classes=["a", "b", "c"], preprocess=options, transforms=transforms, optimize=False)
    found = predictor(pixels)["seg"]["boxes"]

    sample = transforms[0](Sample(image=pixels), np.random.default_rng(0)).carry_out()
    assert sample.size == (48, 90)
    resized = torch.zeros(1, 3, 64, 96)
    resized[0, :, :48, :90] = torch.from_numpy(sample.image).movedim(2, 0) / 50
    scales = [1.2] if convention == "detectron" else None
    with torch.no_grad():
        (wanted,) = model.predict(resized, [(48, 90)], scales)["seg"]
    boxes = wanted["boxes"] / 1.2
    assert torch.allclose(found, torch.cat([boxes[:, :2], boxes[:, 2:] + model.convention.edge], 1), atol=1e-3)


def test_sizes_are_those_without_padding() -> None:
    assert image_sizes(images((64, 96), (52, 70))) == [(64, 96), (52, 70)]
    assert image_sizes(torch.zeros(1, 3, 8, 9)) == [(8, 9)]
    assert image_sizes(torch.zeros(1, 3, 8, 9, device="meta")) == [(8, 9)]


def test_a_few_steps_learn_an_image() -> None:
    norm = {"norm_cfg": {"type": "GN", "num_groups": 4}}
    spec = PYRAMID | {"backbone": {**PYRAMID["backbone"], **norm}, "neck": {**PYRAMID["neck"], **norm}}
    model = model_of(spec).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    first, last = 0.0, 0.0
    for _ in range(6):
        losses = model.loss(images((64, 96)), targets(2))
        total = sum(value for name, value in losses.items() if "loss" in name)
        optimizer.zero_grad()
        total.backward()  # type: ignore[union-attr]
        optimizer.step()
        first, last = first or total.item(), total.item()  # type: ignore[union-attr]
    assert last < 0.8 * first


def test_targets_without_boxes_are_named() -> None:
    with pytest.raises(UsageError, match="lack boxes and classes"):
        model_of(PYRAMID).loss(images((64, 96)), Targets({"seg": torch.zeros(1, 64, 96)}))


def test_a_mask_head_without_masks_is_named() -> None:
    truth = targets(2)
    del truth["instances"]
    with pytest.raises(UsageError, match="instances"):
        model_of(PYRAMID).train().loss(images((64, 96)), truth)


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ({"box_head": None}, "mask_head"),
        ({"rpn": {"type": "RPN", "anchors": {"type": "Anchors", "sizes": [[32], [64]]}}}, "rpn.anchors.sizes"),
        ({"neck": {**PYRAMID["neck"], "num_outs": 6}}, "neck.num_outs"),
    ],
)
def test_parts_that_do_not_fit_are_named(more: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build("segmentors", PYRAMID | more)
    assert path.rpartition(".")[2] in caught.value.problems[0].path


def test_an_unknown_convention_is_named() -> None:
    (problem,) = check("segmentors", PYRAMID | {"convention": "detectron3"})
    assert problem.path == "convention"
