"""Detectron's pickles in a model, stage by stage and in training, against Detectron.pytorch and detectron2."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as coco
from recorded import RECORDED
from reference_models import of_detectron
from torch import Tensor
from torch.nn.functional import pad

from segkernel import Predictor
from segplug_instances.box_head import Samples
from segplug_instances.boxes import clip
from segplug_instances.ground_truth import GroundTruth
from segplug_instances.keypoint_maps import decode_keypoints
from segplug_instances.paste import paste
from segplug_instances.rcnn import RCNN
from segplug_instances.transforms import DetectionResize
from segplug_instances.weight_formats.detectron import DetectronBlobs, DetectronPyTorch

MEANS = (102.9801, 115.9465, 122.7717)
NAMES = sorted(path.stem for path in (RECORDED / "pkl").glob("e2e_*.json") if not path.stem.endswith(".d2"))
CONVERTED = sorted(path.stem for path in (RECORDED / "pkl").glob("e2e_*.d2.json"))
TRAINED = sorted(path.stem for path in (RECORDED / "pkl").glob("train_*.json"))
QUICK = (
    "e2e_mask_rcnn_R-50-C4_1x.d2",
    "e2e_mask_rcnn_R-50-C4_1x",
    "e2e_keypoint_rcnn_R-50-FPN_1x",
    "train_e2e_mask_rcnn_R-50-C4_1x",
    "train_e2e_mask_rcnn_R-50-FPN_1x",
)
Rows = Iterator[tuple[str, Any, np.ndarray]]


def marked(names: list[str]) -> list[Any]:
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", marked(NAMES))
def test_stages_are_those_of_detectron(golden: Any, name: str) -> None:
    case = Case(golden, name)
    rows = [(stage, golden.error(_numpy(got), reference)) for stage, got, reference in case.stages()]
    assert [row for row in rows if not row[1] <= case.tolerance] == []
    assert case.masks_differ() <= 1e-3


def test_a_predictor_finds_what_detectron_does(golden: Any) -> None:
    case = Case(golden, "e2e_faster_rcnn_R-50-FPN_1x")
    model, test = case.model, case.facts["config"]["overrides"]["TEST"]
    rule = (test["SCALE"], test["MAX_SIZE"])
    model.output = model.outputs["seg"] = replace(model.output, resize_rule=rule)
    predictor = Predictor(
        model,
        classes=[str(number) for number in range(model.output.classes)],
        preprocess={"mean": MEANS[::-1], "std": [1, 1, 1]},
        transforms=[DetectionResize((rule[0],), rule[1], "detectron")],
        optimize=False,
    )
    found = predictor(recorded_image(1234, case.original)[..., ::-1].copy())["seg"]
    reference = torch.from_numpy(case.arrays["det_boxes"])
    best = (
        found["scores"].argsort(descending=True),
        torch.from_numpy(case.arrays["det_scores"]).argsort(descending=True),
    )
    boxes, wanted = (each[order] for each, order in zip((found["boxes"], reference), best))
    assert torch.allclose(boxes, wanted + torch.tensor([0, 0, 1, 1]), atol=5e-3)  # 0.3 if decoded in the resized image


@pytest.mark.parametrize("name", marked(CONVERTED))
def test_detectron2s_rules_on_the_same_file_give_its_stages(golden: Any, name: str) -> None:
    case = Detectron2Case(golden, name)
    rows = [(stage, golden.error(_numpy(got), reference)) for stage, got, reference in case.stages()]
    assert [row for row in rows if not row[1] <= case.tolerance] == []


@pytest.mark.parametrize("name", marked(TRAINED))
def test_a_training_step_is_that_of_detectron(golden: Any, name: str) -> None:
    case = TrainCase(golden, name)
    rows = list(case.rows())
    assert [row for row in rows if not row[1] <= row[2]] == []


class Case:
    """A model with Detectron's blobs, and what Detectron.pytorch computes with them."""

    convention = "detectron_pytorch"

    def __init__(self, golden: Any, name: str) -> None:
        self.golden, self.name = golden, name
        self.facts, self.arrays = golden.load(f"pkl/{name}")
        test = self.facts["config"]["overrides"]["TEST"]
        self.limits = {
            "pre_nms": test["RPN_PRE_NMS_TOP_N"],
            "post_nms": test["RPN_POST_NMS_TOP_N"],
            "limit": test["DETECTIONS_PER_IM"],
        }
        self.tolerance = 1e-3 if "101" in name else 1e-4
        self.model = of_detectron(name, self.facts["config"], self.limits, self.convention).eval()
        load_blobs(golden, self.model, self.facts["blobs"])
        self.original = tuple(int(side) for side in re.findall(r"\((\d+),(\d+),3\)", str(self.facts.get("image")))[0])

    @torch.no_grad()
    def stages(self) -> Rows:
        model, scale = self.model, self.facts["im_scale"]
        image = prepared(recorded_image(1234, self.original), scale)
        size = (image.shape[1], image.shape[2])
        self.features, padded = model.extract_features(image[None])
        data = pad(image, (0, padded[1] - size[1], 0, padded[0] - size[0]))[None].flip(1)
        yield self.cut("data", data)
        for number, each in enumerate(reversed(self.features)):
            yield self.cut(f"feat_{number}", each)
        outputs = model.rpn(self.features)
        for level, (logits, deltas) in enumerate(outputs):
            suffix = f"_fpn{level + 2}" if len(outputs) > 1 else ""
            yield self.cut(f"rpn_cls_logits{suffix}", logits)
            yield self.cut(f"rpn_bbox_pred{suffix}", deltas)
        assert tuple(self.facts["im_info"][0][:2]) == tuple(map(float, model._limits([size])[0]))
        ((boxes, logits),) = model.rpn.select(
            outputs, model.rpn.place_anchors(self.features, padded), model._limits([size]), [scale]
        )
        yield "rois", boxes, self.arrays["rois"][:, 1:]
        if "rpn_roi_probs" in self.arrays:
            yield "rpn_roi_probs", logits.sigmoid()[:, None], self.arrays["rpn_roi_probs"]
        yield from self.of_boxes(torch.from_numpy(self.arrays["rois"][:, 1:]), scale)

    def of_boxes(self, rois: Tensor, scale: float) -> Rows:
        head = self.model.box_head
        assert head is not None
        logits, deltas = head(head.pooler(self.features, [rois]))
        yield "cls_prob", logits.softmax(1).roll(1, 1), self.arrays["cls_prob"]
        yield "bbox_pred", deltas, self.arrays["bbox_pred"][:, 4:]
        scores = torch.from_numpy(self.arrays["cls_prob"]).roll(-1, 1)
        boxes = head.decode(rois / np.float32(scale), torch.from_numpy(self.arrays["bbox_pred"][:, 4:]))
        flat = clip(boxes, self.original, self.model.convention).flatten(1)
        stride = flat.shape[1] // (self.arrays["pred_boxes"].shape[1] - 4 // 2) if "columns ::2" in str(
            self.facts["arrays"]["pred_boxes"].get("note")) else 1  # fmt: skip
        yield "pred_boxes", flat[:, ::stride], self.arrays["pred_boxes"][:, 4 // stride :]
        found = self.model.outputs["seg"].select(boxes, scores, self.original)
        yield "det_boxes", found[0], self.arrays["det_boxes"]
        yield "det_scores", found[1], self.arrays["det_scores"]
        yield "det_classes", found[2] + 1, self.arrays["det_classes"]
        yield from self.of_detections(torch.from_numpy(self.arrays["det_boxes"]), scale)

    def of_detections(self, boxes: Tensor, scale: float) -> Rows:
        model, labels = self.model, torch.from_numpy(self.arrays["det_classes"]).long() - 1
        self.boxes, resized = boxes, [boxes * np.float32(scale)]
        if model.mask_head is not None:
            (masks,) = model.mask_head.predict(self.features, resized, [labels], model.box_head)
            yield "mask_probs", masks, self.arrays["mask_probs"]
        if model.keypoint_head is not None:
            (maps,) = model.keypoint_head.predict(self.features, resized)
            yield self.cut("keypoint_logits", maps)
            points, peaks = decode_keypoints(maps, boxes, model.convention)
            reference = self.arrays["keypoints"].transpose(0, 2, 1)
            yield "keypoints", points, reference[..., [0, 1, 3]]
            yield "keypoint peaks", peaks, reference[..., 2]

    def masks_differ(self) -> float:
        """Return the share of pixels of pasted masks that differ."""
        if "segms" not in self.facts:
            return 0.0
        masks = torch.from_numpy(self.arrays["mask_probs"])
        pasted = paste(masks, self.boxes, self.original, self.model.convention).numpy()
        reference = coco.decode(self.facts["segms"]).transpose(2, 0, 1)
        return float((pasted != reference).mean())

    def cut(self, name: str, value: Tensor) -> tuple[str, Any, np.ndarray]:
        return name, self.golden.sliced(self.facts, name, value.detach()), self.arrays[name]


class Detectron2Case(Case):
    """A model with Detectron's blobs and the rules of detectron2, and what detectron2 computes with them."""

    convention = "detectron2"

    def __init__(self, golden: Any, name: str) -> None:
        super().__init__(golden, name.removesuffix(".d2"))
        self.recipe, scale = self.facts["image"], self.facts["im_scale"]
        self.facts, self.arrays = golden.load(f"pkl/{name}")
        size = tuple(int(side) for side in re.findall(r"\((\d+),(\d+),3\)", self.recipe)[0])
        self.image = prepared(recorded_image(1234, size), scale)

    @torch.no_grad()
    def stages(self) -> Rows:
        model, size = self.model, tuple(self.facts["image_size_hw"])
        self.features, padded = model.extract_features(self.image[None])
        for name, each in zip([key for key in self.arrays if key.startswith("feat_")], self.features):
            yield self.cut(name, each)
        outputs = model.rpn(self.features)
        for level, (logits, deltas) in enumerate(outputs):
            yield self.cut(f"rpn_logits_{level}", logits)
            yield self.cut(f"rpn_deltas_{level}", deltas)
        anchors = model.rpn.place_anchors(self.features, padded)
        ((boxes, logits),) = model.rpn.select(outputs, anchors, [size])
        yield "proposals", boxes, self.arrays["proposals"]
        yield "proposal_logits", logits, self.arrays["proposal_logits"]

        proposals = torch.from_numpy(self.arrays["proposals"])
        logits, deltas = model.box_head(model.box_head.pooler(self.features, [proposals]))
        yield "box_scores", logits, self.arrays["box_scores"]
        yield "box_deltas", deltas, self.arrays["box_deltas"]
        scores = torch.from_numpy(self.arrays["box_scores"]).softmax(1)
        boxes = model.box_head.decode(proposals, torch.from_numpy(self.arrays["box_deltas"]))
        found = model.output.select(boxes, scores, size)
        for name, value in zip(("det_boxes", "det_scores", "det_classes"), found):
            yield name, value, self.arrays[name]
        boxes, labels = (torch.from_numpy(self.arrays[name]) for name in ("det_boxes", "det_classes"))
        if model.mask_head is not None:
            (masks,) = model.mask_head.predict(self.features, [boxes], [labels.long()], model.box_head)
            yield "mask_logits", masks.logit(), self.arrays["mask_logits"]
        if model.keypoint_head is not None:
            yield self.cut("keypoint_logits", model.keypoint_head.predict(self.features, [boxes])[0])


class TrainCase:
    """One training step of Detectron.pytorch on two images, with its samples."""

    def __init__(self, golden: Any, name: str) -> None:
        self.golden, self.name = golden, name.removeprefix("train_")
        self.facts, self.arrays = golden.load(f"pkl/{name}")
        train = self.facts["config_overrides"]["TRAIN"]
        limits = {
            "pre_nms": train["RPN_PRE_NMS_TOP_N"],
            "post_nms": train["RPN_POST_NMS_TOP_N"],
            "rpn_batch": train["RPN_BATCH_SIZE_PER_IM"],
            "box_batch": train["BATCH_SIZE_PER_IM"],
        }
        whole = self.facts
        if (golden.folder / "pkl" / f"{self.name}.json").exists():
            whole, _ = golden.load(f"pkl/{self.name}")
        config = whole.get("config") or usual_config(self.name)
        self.model = of_detectron(self.name, config, limits, "detectron_pytorch").train()
        load_blobs(golden, self.model, whole["blobs"])
        self.scales = [info[2] for info in self.facts["im_info"]]
        images = [
            prepared(recorded_image(700 + image["id"], image["hw"]), scale)
            for image, scale in zip(self.facts["images"], self.scales)
        ]
        self.sizes = [(each.shape[1], each.shape[2]) for each in images]
        height, width = (max(lengths) for lengths in zip(*self.sizes))
        self.images = torch.stack([pad(each, (0, width - each.shape[2], 0, height - each.shape[1])) for each in images])

    def rows(self) -> Iterator[tuple[str, float, float]]:
        """Yield each quantity with its error and the tolerance."""
        model = self.model
        truths = [self.truth(image) for image in range(len(self.sizes))]
        features, padded = model.extract_features(self.images)
        outputs, anchors = model.rpn(features), model.rpn.place_anchors(features, padded)
        labels = []
        for level, (logits, deltas) in enumerate(outputs):
            suffix = f"_fpn{level + 2}" if len(outputs) > 1 else ""
            yield self.compared(f"rpn_cls_logits{suffix}", logits)
            yield self.compared(f"rpn_bbox_pred{suffix}", deltas)
            wide = torch.from_numpy(self.arrays[f"rpn_labels_int32_wide{suffix}"])
            labels.append(wide[:, :, : logits.shape[2], : logits.shape[3]].permute(0, 2, 3, 1).flatten(1))
        objects = [truth.boxes_of(model.rpn.match(anchors, truth, size)[0]) for truth, size in zip(truths, self.sizes)]
        losses = model.rpn.losses(outputs, anchors, torch.cat(labels, 1).long(), objects)
        samples = self.samples(truths)
        losses |= model.box_head.losses(features, samples, truths)
        for head in (model.mask_head, model.keypoint_head):
            losses |= head.loss(features, samples, truths) if head is not None else {}
        names = {"loss_keypoint": "loss_kps"}
        for name, value in losses.items():
            parts = [each for key, each in self.facts["losses"].items() if key.startswith(names.get(name, name))]
            if "loss" in name:
                yield name, abs(value.item() - sum(parts)) / max(1, sum(parts)), 1e-4
        sum(value for name, value in losses.items() if "loss" in name).backward()
        yield from self.gradients()

    def gradients(self) -> Iterator[tuple[str, float, float]]:
        format = DetectronPyTorch()
        norms = {
            name: parameter.grad.norm().item()
            for name, parameter in self.model.named_parameters()
            if parameter.grad is not None
        }
        for key, reference in self.facts["grad_norm_params"].items():
            converted = format.convert(self.model, {key: torch.zeros(200, 3, 1, 1)})
            for name in norms.keys() & converted.keys():
                yield f"grad {key}", abs(norms[name] - reference) / max(reference, 1e-2), 1e-3
        total = sum(norm**2 for norm in norms.values()) ** 0.5
        expected = self.facts["grad_norm"]
        if "Mask_Head" in expected and self.model.mask_head.shared:  # its stage is that of the box head, counted once
            own = [norm for name, norm in norms.items() if name.startswith(("mask_head.upsample", "box_head.layer4"))]
            yield "grad Mask_Head", abs(sum(each**2 for each in own) ** 0.5 / expected["Mask_Head"] - 1), 1e-3
            expected = {name: norm for name, norm in expected.items() if name != "Mask_Head"}
            total = (total**2 - sum(norms[f"mask_head.upsample.{leaf}"] ** 2 for leaf in ("weight", "bias"))) ** 0.5
        yield "grad total", abs(total / sum(norm**2 for norm in expected.values()) ** 0.5 - 1), 1e-3

    def truth(self, image: int) -> GroundTruth:
        given, scale = self.facts["images"][image], self.scales[image]
        boxes = torch.tensor(given["boxes"]) * scale
        parts = [
            (torch.tensor(part).reshape(-1, 2) * scale, number)
            for number, each in enumerate(self.facts["gt_segms"][image])
            for part in each
        ]
        masks = {
            "points": torch.cat([part for part, _ in parts]),
            "parts": torch.tensor([0, *(len(part) for part, _ in parts)]).cumsum(0),
            "objects": torch.tensor([number for _, number in parts]),
        }
        points = None
        if "gt_keypoints" in self.facts:
            points = torch.tensor(self.facts["gt_keypoints"][image]).transpose(1, 2).float()
            points = points * torch.tensor([scale, scale, 1])
        return GroundTruth(
            boxes=boxes,
            labels=torch.tensor(given["classes"]) - 1,
            objects=torch.arange(len(boxes)),
            size=self.sizes[image],
            crowds=boxes[:0],
            masks=masks,
            keypoints=points,
            scale=scale,
        )

    def samples(self, truths: list[GroundTruth]) -> Samples:
        rois, labels = (torch.from_numpy(self.arrays[name]) for name in ("rois", "labels_int32"))
        background = self.model.box_head.num_classes
        labels = torch.where(labels > 0, labels - 1, background).long()
        images = [rois[:, 0] == image for image in range(len(truths))]
        boxes = [rois[rows, 1:] for rows in images]
        index = [self.model.box_head.match(box, truth)[0] for box, truth in zip(boxes, truths)]
        return Samples(boxes, [labels[rows] for rows in images], index)

    def compared(self, name: str, value: Tensor) -> tuple[str, float, float]:
        cut = self.golden.sliced(self.facts, name, value.detach())
        return name, self.golden.error(_numpy(cut), self.arrays[name]), 1e-4


def load_blobs(golden: Any, model: RCNN, table: dict[str, Any]) -> None:
    """Fill a model with the blobs of a table; those of it that the model does not need are known."""
    blobs = golden.fill_blobs({blob: {"shape": shape} for blob, shape in table.items()})
    converted = DetectronBlobs().convert(model, blobs)
    assert converted.keys() == model.state_dict().keys()
    model.load_state_dict(converted)


def usual_config(name: str) -> dict[str, Any]:
    """Return the options of a baseline."""
    return {
        "NUM_CLASSES": 2 if "keypoint" in name else 81,
        "STRIDE_1X1": "X-101" not in name and not name.endswith("_gn"),
        "BBOX_REG_WEIGHTS": [10.0, 10.0, 5.0, 5.0],
        "CLS_AGNOSTIC_BBOX_REG": False,
        "ROI_XFORM": ["RoIAlign", 7, 2] if "FPN" in name else ["RoIAlign", 14, 0],
        "TEST_NMS": 0.5,
        "SCORE_THRESH": 0.05,
    }


def recorded_image(seed: int, size: Any) -> np.ndarray:
    """Return an image (H, W, 3) uint8 BGR of Detectron's recipe."""
    noise = np.random.RandomState(seed).standard_normal((*size, 3))
    return np.clip(np.round(np.array(MEANS) + 2 * noise), 0, 255).astype(np.uint8)


def prepared(image: np.ndarray, scale: float) -> Tensor:
    """Return an image (3, h, w) RGB as Detectron prepares it, without padding."""
    values = image.astype(np.float32) - np.array(MEANS, np.float32)
    values = cv2.resize(values, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    return torch.from_numpy(values).permute(2, 0, 1).flip(0).contiguous()


def _numpy(value: Any) -> np.ndarray:
    return value.detach().numpy() if isinstance(value, Tensor) else np.asarray(value)
