"""Whole models against recorded ones, stage by stage: each stage gets the recorded results of the one before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from recorded import RECORDED
from reference_models import of_detectron2, of_torchvision
from torch import Tensor
from torch.nn.functional import interpolate, pad

from segkernel.interfaces.model import WeightFormat
from segplug_instances.box_head import Samples
from segplug_instances.ground_truth import GroundTruth
from segplug_instances.keypoint_maps import decode_keypoints
from segplug_instances.rcnn import RCNN
from segplug_instances.weight_formats.detectron2 import Detectron2
from segplug_instances.weight_formats.torchvision import TorchvisionDetector

QUICK = ("d2_mask_rcnn_R_50_FPN", "d2_mask_rcnn_R_50_C4", "d2_keypoint_rcnn_R_50_FPN", "tv_maskrcnn_resnet50_fpn")
NAMES = sorted(path.stem for pattern in ("d2_*.json", "tv_*.json") for path in (RECORDED / "models").glob(pattern))
Row = tuple[str, Any, Any, float]
"""A stage, what this package computes, what was recorded, and the tolerance."""


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in NAMES])
def test_stages_and_losses_are_those_of_the_reference(golden: Any, name: str) -> None:
    case = Case(golden, name)
    wrong = [f"{stage}: {error:.1e}" for stage, error, tolerance in case.errors() if not error <= tolerance]
    assert not wrong


class Case:
    """A recorded model of detectron2 or torchvision, and the same model of this package with its weights."""

    def __init__(self, golden: Any, name: str) -> None:
        self.golden, self.facts = golden, golden.load(f"models/{name}")[0]
        self.arrays = golden.load(f"models/{name}")[1]
        self.torchvision = int(name.startswith("tv_"))
        self.deep = "101" in name or "152" in name
        self.model: RCNN
        self.format: WeightFormat
        if self.torchvision:
            self.model, self.format = of_torchvision(self.facts["name"], self.facts["kwargs"]), TorchvisionDetector()
        else:
            self.model, self.format = of_detectron2(self.facts["resolved"]), Detectron2()
        self.weights = golden.fill(
            {key: torch.empty(shape, dtype=_dtype(key)) for key, shape in self.facts["state_dict"].items()}
        )
        converted = self.format.convert(self.model, dict(self.weights))
        assert converted.keys() == self.model.state_dict().keys()
        self.model.load_state_dict(converted)
        self.model.eval()
        self.images, self.sizes, self.originals = self._images()

    def errors(self) -> Iterator[tuple[str, float, float]]:
        tolerance = 1e-3 if self.deep else 1e-4
        for stage, got, reference in [*self.inference(), *self.results()]:
            yield stage, self.golden.error(_numpy(got), reference), tolerance
        yield from self.training()

    def stored(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name])

    def listed(self, name: str) -> list[Tensor]:
        return [self.stored(f"{name}_{image}") for image in range(len(self.sizes))]

    def cut(self, name: str, value: Tensor) -> tuple[str, Any, np.ndarray]:
        return name, self.golden.sliced(self.facts, name, value.detach()), self.arrays[name]

    @torch.no_grad()
    def inference(self) -> Iterator[tuple[str, Any, np.ndarray]]:
        model = self.model
        self.features, self.padded = model.extract_features(self.images)
        assert [*self.images.shape[:2], *self.padded] == self.facts["batch_shape"]
        names = [key for key in self.arrays if key.startswith("feat_")]
        assert len(names) == len(self.features)
        for name, each in zip(names, self.features):
            yield self.cut(name, each)
        outputs = model.rpn(self.features)
        for level, (logits, deltas) in enumerate(outputs):
            yield self.cut(f"rpn_logits_{level}", logits)
            yield self.cut(f"rpn_deltas_{level}", deltas)
        anchors = model.rpn.place_anchors(self.features, self.padded)
        if "anchors" in self.arrays:
            yield "anchors", torch.cat(anchors)[::37], self.arrays["anchors"]
        for image, (boxes, logits) in enumerate(model.rpn.select(outputs, anchors, self.sizes)):
            yield f"proposals_{image}", boxes, self.arrays[f"proposals_{image}"]
            if f"proposal_logits_{image}" in self.arrays:
                yield f"proposal_logits_{image}", logits, self.arrays[f"proposal_logits_{image}"]
        if model.box_head is not None:
            yield from self.of_boxes()

    def of_boxes(self) -> Iterator[tuple[str, Any, np.ndarray]]:
        model, proposals = self.model, self.listed("proposals")
        assert model.box_head is not None
        pooled = model.box_head.pooler(self.features, proposals)
        if "box_pooled" in self.arrays:
            yield self.cut("box_pooled", pooled[::4, ::16])
        x = model.box_head.trunk(pooled)
        vectors = x.mean((2, 3)) if x.ndim == 4 else x
        yield "box_features", vectors[:, :: vectors.shape[1] // 128], self.arrays["box_features"]
        logits, deltas = model.box_head.classify(x)
        yield "box_scores", logits, _background_last(self.arrays["box_scores"], self.torchvision)
        yield "box_deltas", deltas, self.arrays["box_deltas"][:, 4 * self.torchvision :]

        scores = torch.from_numpy(_background_last(self.arrays["box_scores"], self.torchvision)).softmax(1)
        deltas = self.stored("box_deltas")[:, 4 * self.torchvision :]
        counts = [len(each) for each in proposals]
        labels = "det_labels" if self.torchvision else "det_classes"
        for image, parts in enumerate(zip(proposals, deltas.split(counts), scores.split(counts), self.sizes)):
            boxes = model.box_head.decode(parts[0], parts[1])
            found = model.outputs["seg"].select(boxes, parts[2], parts[3])
            yield f"det_boxes_{image}", found[0], self.arrays[f"det_boxes_{image}"]
            yield f"det_scores_{image}", found[1], self.arrays[f"det_scores_{image}"]
            yield f"{labels}_{image}", found[2], self.arrays[f"{labels}_{image}"] - self.torchvision
            if f"det_rows_{image}" in self.arrays:
                yield f"det_rows_{image}", found[3], self.arrays[f"det_rows_{image}"]

    @torch.no_grad()
    def results(self) -> Iterator[tuple[str, Any, np.ndarray]]:
        """Yield masks and keypoints of the recorded detections, and final results."""
        model = self.model
        if model.box_head is None:
            raw = [{"boxes": boxes, "scores": boxes[:, 0], "labels": boxes[:, 0]} for boxes in self.listed("proposals")]
            yield from self.final(raw)
            return
        boxes = self.listed("det_boxes")
        given = self.listed("det_labels" if self.torchvision else "det_classes")
        labels = [each.long() - self.torchvision for each in given]
        raw = [
            {"boxes": box, "labels": label, "scores": score}
            for box, label, score in zip(boxes, labels, self.listed("det_scores"))
        ]
        if model.mask_head is not None:
            masks = model.mask_head.predict(self.features, boxes, labels, model.box_head)
            yield "mask_logits", torch.cat(masks).logit(), self.arrays["mask_logits"]
            masks = list(self.stored("mask_logits").sigmoid().split([len(each) for each in boxes]))
            raw = [each | {"masks": mask} for each, mask in zip(raw, masks)]
        if model.keypoint_head is not None:
            maps = model.keypoint_head.predict(self.features, boxes)
            yield self.cut("keypoint_logits", torch.cat(maps))
            raw = [each | {"keypoint_maps": heat} for each, heat in zip(raw, maps)]
            for image, (heat, box) in enumerate(zip(maps, boxes)):
                points, _ = decode_keypoints(heat, box, model.convention)
                yield from self.keypoints(f"keypoints_{image}", f"keypoint_scores_{image}", points)
        yield from self.final(raw)

    def final(self, raw: list[dict[str, Tensor]]) -> Iterator[tuple[str, Any, np.ndarray]]:
        """Yield the results at the size of the original images."""
        output = self.model.output
        for image, (each, size) in enumerate(zip(raw, self.sizes)):
            original = self.originals[image] if self.torchvision else tuple(self.facts["output_sizes_hw"][image])
            field = output.finish([each], self.padded, size, original)
            names = {"boxes": "boxes", "scores": "scores", "labels": "labels" if self.torchvision else "classes"}
            for name, key in names.items():
                if (reference := self.arrays.get(f"final_{key}_{image}")) is not None:
                    yield f"final_{key}_{image}", field[name], reference - (self.torchvision if name == "labels" else 0)
            if "masks" in field:
                masks = self.arrays[f"final_masks_bin_{image}" if self.torchvision else f"final_masks_{image}"]
                differ = float((field["masks"].numpy() != masks).mean()) if masks.shape == field["masks"].shape else 1
                yield f"final_masks_{image}", differ <= 1e-3, np.array(True)
            if "keypoints" in field:
                points = field["keypoints"] - torch.tensor([0.5, 0.5, 0]) * self.torchvision
                yield from self.keypoints(f"final_keypoints_{image}", f"final_keypoints_scores_{image}", points)

    def keypoints(self, name: str, scores: str, points: Tensor) -> Iterator[tuple[str, Any, np.ndarray]]:
        if not self.torchvision:
            yield name, points, self.arrays[name]
            return
        yield name, points[..., :2], self.arrays[name][..., :2]
        yield scores, points[..., 2], self.arrays[scores]

    def training(self) -> Iterator[tuple[str, float, float]]:
        """Yield the errors of losses and gradient norms, for the recorded samples."""
        model = self.model.train()
        truths = self.truths()
        features, padded = model.extract_features(self.images)
        outputs, anchors = model.rpn(features), model.rpn.place_anchors(features, padded)
        objects = [truth.boxes_of(model.rpn.match(anchors, truth, size)[0]) for truth, size in zip(truths, self.sizes)]
        losses = model.rpn.losses(outputs, anchors, self.stored("rpn_labels").long(), objects)
        if model.box_head is not None:
            samples = self.samples(truths)
            losses |= model.box_head.losses(features, samples, truths)
            for head in (model.mask_head, model.keypoint_head):
                losses |= head.loss(features, samples, truths) if head is not None else {}
        names = {
            "loss_rpn_cls": "loss_objectness", "loss_rpn_bbox": "loss_rpn_box_reg", "loss_cls": "loss_classifier",
            "loss_bbox": "loss_box_reg",
        } if self.torchvision else {"loss_rpn_bbox": "loss_rpn_loc", "loss_bbox": "loss_box_reg"}  # fmt: skip
        losses = {names.get(name, name): value for name, value in losses.items() if "loss" in name}
        assert losses.keys() == self.facts["losses"].keys()
        for name, value in losses.items():
            reference = self.facts["losses"][name]
            yield name, abs(value.item() - reference) / max(1, abs(reference)), 1e-4
        sum(losses.values()).backward()  # type: ignore[union-attr]
        yield from self.gradients()

    def gradients(self) -> Iterator[tuple[str, float, float]]:
        norms = {
            name: parameter.grad.norm().item()
            for name, parameter in self.model.named_parameters()
            if parameter.grad is not None
        }
        groups = (("backbone", "backbone neck"), ("rpn", "rpn"), ("proposal_generator", "rpn"),
                  ("roi_heads", "box_head mask_head keypoint_head"))  # fmt: skip
        for group, prefixes in groups:
            parts = [norm for name, norm in norms.items() if name.partition(".")[0] in prefixes.split()]
            if group in self.facts["grad_norm"]:
                reference = self.facts["grad_norm"][group]
                yield f"grad {group}", abs(sum(norm**2 for norm in parts) ** 0.5 / reference - 1), 1e-3
        for key, reference in self.facts["grad_norm_params"].items():
            (name,) = norms.keys() & self.format.convert(self.model, {key: self.weights[key]}).keys()
            yield f"grad {key}", abs(norms[name] - reference) / max(reference, 1e-2), 1e-3
        without = {
            name
            for key in self.facts["params_without_grad"]
            for name in self.format.convert(self.model, {key: self.weights[key]})
        }
        assert not norms.keys() & without

    def truths(self) -> list[GroundTruth]:
        found = []
        for image, (size, original, given) in enumerate(zip(self.sizes, self.originals, self.facts["gt"])):
            ratio = torch.tensor([size[1] / original[1], size[0] / original[0]])
            points = self.arrays.get(f"gt_keypoints_{image}")
            boxes = torch.tensor(given["boxes"]) * torch.cat([ratio, ratio])
            labels = torch.tensor(given["labels" if "labels" in given else "classes"]) - self.torchvision
            found.append(
                GroundTruth(
                    boxes=boxes,
                    labels=labels,
                    objects=torch.arange(len(boxes)),
                    size=size,
                    crowds=boxes[:0],
                    masks=self.masks(image, size) if self.torchvision else _polygons(given["polygons"]),
                    keypoints=None if points is None else torch.from_numpy(points) * torch.cat([ratio, torch.ones(1)]),
                )
            )
        return found

    def masks(self, image: int, size: tuple[int, int]) -> Tensor | None:
        if f"gt_masks_{image}" not in self.arrays:
            return None
        return interpolate(self.stored(f"gt_masks_{image}")[:, None].float(), size)[:, 0].byte()

    def samples(self, truths: list[GroundTruth]) -> Samples:
        boxes = self.listed("sampled_boxes")
        if self.torchvision:
            count = self.model.outputs["seg"].classes
            labels = [torch.where(each > 0, each - 1, count) for each in self.listed("sampled_labels")]
            return Samples(boxes, [each.long() for each in labels], [i.long() for i in self.listed("sampled_gt_index")])
        index = [
            torch.cdist(each, truth.boxes).argmin(1) for each, truth in zip(self.listed("sampled_gt_boxes"), truths)
        ]
        return Samples(boxes, [each.long() for each in self.listed("sampled_classes")], index)

    def _images(self) -> tuple[Tensor, list[tuple[int, int]], list[tuple[int, int]]]:
        originals = [tuple(size) for size in self.facts["image_sizes_hw"]]
        noise = [
            torch.from_numpy(np.random.RandomState(1234 + i).standard_normal((3, *size)).astype(np.float32))
            for i, size in enumerate(originals)
        ]
        if self.torchvision:
            images = [_resized((0.5 + 0.25 * each - MEAN) / STD, 128, 200) for each in noise]
        else:
            mean, std = (
                torch.tensor(self.facts["resolved"][f"MODEL.PIXEL_{key}"])[:, None, None] for key in ("MEAN", "STD")
            )
            scale = float(self.facts["images"][0].partition("float32(")[2].partition(" *")[0])
            images = [((mean + scale * each * std - mean) / std).flip(0) for each in noise]
        sizes = [(each.shape[1], each.shape[2]) for each in images]
        height, width = (max(lengths) for lengths in zip(*sizes))
        batch = torch.stack([pad(each, (0, width - each.shape[2], 0, height - each.shape[1])) for each in images])
        return batch, sizes, originals  # type: ignore[return-value]


MEAN, STD = (torch.tensor(values)[:, None, None] for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))


def _resized(image: Tensor, short: int, longest: int) -> Tensor:
    height, width = image.shape[1:]
    scale = min(short / min(height, width), longest / max(height, width))
    return interpolate(image[None], scale_factor=scale, mode="bilinear", recompute_scale_factor=True)[0]


def _background_last(scores: np.ndarray, first: bool) -> np.ndarray:
    return np.roll(scores, -1, 1) if first else scores


def _polygons(objects: list[list[list[float]]]) -> dict[str, Tensor]:
    parts = [torch.tensor(part).reshape(-1, 2) for each in objects for part in each]
    return {
        "points": torch.cat(parts),
        "parts": torch.tensor([0, *(len(part) for part in parts)]).cumsum(0),
        "objects": torch.tensor([i for i, each in enumerate(objects) for _ in each]),
    }


def _dtype(key: str) -> torch.dtype:
    return torch.int64 if key.endswith("num_batches_tracked") else torch.float32


def _numpy(value: Any) -> np.ndarray:
    return value.detach().numpy() if isinstance(value, Tensor) else np.asarray(value)
