"""Instances of a stub model: sizes, views, decoding, pictures and files."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segkernel import Predictor
from segkernel.errors import UsageError
from segkernel.interfaces.model import Segmentor, output_of
from segkernel.sample import Targets
from segplug_instances import output
from segplug_instances.output import Instances

SIZE = (48, 64)


class Stub(Segmentor):
    """Finds the bright rectangle: a box of class 1 with a mask and two keypoints, at its left and right edge."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.outputs = {"seg": Instances(2, keypoint_pairs=((0, 1),), **options)}
        self.test_cfg = {"mode": "whole"}
        self.weight = nn.Parameter(torch.zeros(()))

    def predict(self, images: Tensor) -> dict[str, Any]:
        return {"seg": [self._find(image.mean(0) > 0) for image in images]}

    def _find(self, bright: Tensor) -> dict[str, Tensor]:
        edge = self.outputs["seg"].rules.edge
        rows, columns = bright.any(1).nonzero()[:, 0], bright.any(0).nonzero()[:, 0]
        box = torch.stack([columns[0], rows[0], columns[-1] + 1 - edge, rows[-1] + 1 - edge]).float()
        maps = torch.full((1, 2, 8, 8), -10.0)
        maps[0, 0, 2, 0] = maps[0, 1, 2, 7] = 10.0
        return {
            "boxes": box[None],
            "scores": torch.tensor([0.9]),
            "labels": torch.tensor([1]),
            "masks": torch.ones(1, 6, 6),
            "keypoint_maps": maps,
        }


def photo() -> np.ndarray:
    pixels = np.zeros((*SIZE, 3), np.uint8)
    pixels[8:40, 12:44] = 255
    return pixels


def predicted(**options: Any) -> dict[str, np.ndarray]:
    tta = options.pop("tta", None)
    transforms = options.pop("transforms", ())
    preprocess = {"mean": [127] * 3, "std": [1] * 3, "test_cfg": {"size_divisor": 64}}
    predictor = Predictor(
        Stub(**options), classes=["a", "b"], preprocess=preprocess, tta=tta, transforms=transforms, optimize=False
    )
    return {name: value.numpy() for name, value in predictor(photo())["seg"].items()}


class Half:
    """Halves the image, as a resize before the model would."""

    needs = 0

    def __call__(self, sample: Any, rng: Any, *more: Any) -> Any:
        sample.image = np.ascontiguousarray(sample.image[::2, ::2])
        return sample


@pytest.mark.parametrize("convention", ["torchvision", "detectron", "detectron2"])
@pytest.mark.parametrize("tta", [None, {"scales": (1.0, 2.0), "flip": True}])
@pytest.mark.parametrize("transforms", [(), (Half(),)])
def test_objects_are_at_the_original_size_in_every_view(convention: Any, tta: Any, transforms: Any) -> None:
    found = predicted(convention=convention, tta=tta, transforms=transforms)
    slack = 0.6 if convention == "detectron" else 0.01  # the pixel that belongs to a box is scaled, too
    assert np.abs(found["boxes"] - [[12, 8, 44, 40]]).max() <= slack * (2 if transforms or tta else 1)
    assert found["labels"].tolist() == [1]
    assert found["scores"].tolist() == pytest.approx([0.9])
    mask = np.zeros(SIZE, bool)
    mask[8:40, 12:44] = True
    assert found["masks"].shape == (1, *SIZE)
    assert (found["masks"][0] != mask).mean() < 0.05
    left, right = found["keypoints"][0]
    assert abs(left[0] - 14) < 3
    assert abs(right[0] - 42) < 3
    assert abs(left[1] - 18) < 3
    assert left[2] > 0.1


def test_objects_of_one_pass_are_exact() -> None:
    found = predicted(convention="detectron")
    assert found["boxes"].tolist() == [[12, 8, 44, 40]]
    assert found["keypoints"][0, :, 1].tolist() == pytest.approx([found["keypoints"][0, 0, 1]] * 2)


def raw(boxes: list[list[float]], scores: list[float], labels: list[int], **more: Tensor) -> list[dict[str, Tensor]]:
    found = {"boxes": torch.tensor(boxes), "scores": torch.tensor(scores), "labels": torch.tensor(labels)}
    return [{**found, **more}]


def test_masks_that_take_too_much_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_MOST_MASK_BYTES", SIZE[0] * SIZE[1] - 1)
    with pytest.raises(UsageError, match=r"1 masks of 48 x 64 pixels take .* GiB: lower model\.output\.limit"):
        predicted()


def test_views_are_joined_and_their_masks_averaged() -> None:
    output = Instances(2, nms_threshold=0.5)
    ones, zeros = torch.ones(1, 4, 4), torch.zeros(1, 4, 4)
    first = output.resize(raw([[0, 0, 10, 10]], [0.9], [0], masks=ones), SIZE, SIZE)
    second = output.resize(
        raw([[0, 0, 10, 10], [30, 30, 40, 40]], [0.8, 0.7], [0, 1], masks=torch.cat([zeros, ones])), SIZE, SIZE
    )
    merged = output.mean(output.merge(output.merge(None, first), second), 2)
    assert merged[0]["boxes"].tolist() == [[0, 0, 10, 10], [30, 30, 40, 40]]
    assert merged[0]["masks"][:, 0, 0].tolist() == [0.5, 1.0]
    assert [value.shape[0] for value in output.decode(merged, True).values()] == [2] * 4


def test_a_mask_moves_with_the_box_it_is_averaged_in() -> None:
    output = Instances(1, nms_threshold=0.3)
    half = torch.zeros(1, 8, 8)
    half[:, :, 4:] = 1  # pixels 4 to 8 of a box from 0 to 8
    first = output.resize(raw([[0.0, 0, 8, 8]], [0.9], [0], masks=half), SIZE, SIZE)
    moved = torch.zeros(1, 8, 8)
    moved[:, :, 2:] = 1  # the same pixels of a box from 2 to 10
    second = output.resize(raw([[2.0, 0, 10, 8]], [0.5], [0], masks=moved), SIZE, SIZE)
    (merged,) = output.mean(output.merge(output.merge(None, first), second), 2)
    assert merged["masks"][0, 4].tolist() == pytest.approx([0, 0, 0, 0, 1, 1, 1, 1])


def test_results_of_a_shortest_edge_resize_have_one_factor() -> None:
    original, size = (375, 1242), (402, 1333)
    found = raw([[0.0, 0.0, 1000.0, 300.0]], [0.9], [0])
    by_axis = Instances(1).resize(found, size, original)[0]["boxes"][0]
    by_rule = Instances(1, resize_rule=(800, 1333)).resize(found, size, original)[0]["boxes"][0]
    assert by_axis[2:].tolist() == pytest.approx([1000 * 1242 / 1333, 300 * 375 / 402])
    assert by_rule[2:].tolist() == pytest.approx([1000 * 1242 / 1333, 300 * 1242 / 1333])
    other = Instances(1, resize_rule=(600, 1000)).resize(found, size, original)[0]["boxes"][0]
    assert other.equal(by_axis)


def test_no_object_at_all_is_a_result(tmp_path: Any) -> None:
    output = Instances(1)
    empty = raw([], [], [], masks=torch.zeros(0, 4, 4), keypoint_maps=torch.zeros(0, 17, 8, 8))
    empty[0]["boxes"] = torch.zeros(0, 4)
    empty[0]["labels"] = torch.zeros(0, dtype=torch.int64)
    once = output.flip(output.crop(output.resize(empty, SIZE, (96, 128)), (90, 120)), (90, 120))
    found = output.decode(output.mean(output.merge(output.merge(None, once), once), 2))
    assert found["masks"].shape == (0, 96, 128)
    assert found["keypoints"].shape == (0, 17, 3)
    assert output.results(found) == []


def test_pictures_have_boxes_masks_and_names() -> None:
    output, image = Instances(2), np.full((*SIZE, 3), 100, np.uint8)
    target = Targets(
        {
            "boxes": torch.tensor([[10.0, 10.0, 30.0, 40.0]]),
            "classes": torch.tensor([1]),
            "instances": torch.ones(1, *SIZE, dtype=torch.uint8),
            "keypoints": torch.tensor([[[15.0, 15.0, 2.0]] * 17]),
        }
    )
    drawn = output.draw(image, target, ("a", "b"), ((255, 0, 0), (0, 255, 0)), 0.5)
    assert (image == 100).all()
    assert (drawn != image).any(2).all()  # the mask is everywhere
    sure = {"boxes": target["boxes"], "labels": target["classes"], "scores": torch.tensor([0.9])}
    assert (output.draw(image, sure, ("a", "b"), (), 0.5)[10, 10:30] != 100).any(1).all()
    doubtful = {**sure, "scores": torch.tensor([0.3])}
    assert (output.draw(image, doubtful, ("a", "b"), (), 0.5) == image).all()


def test_the_output_is_rebuilt_from_plain_values() -> None:
    output = Instances(3, convention="detectron", keypoint_pairs=((0, 1),), resize_rule=(800, 1333))
    rebuilt = output_of(output.config())
    assert isinstance(rebuilt, Instances)
    assert rebuilt.config() == output.config()
    problem = output.mismatch(type("Cars", (), {"classes": ("car",)})())
    assert problem is not None
    assert "1 classes of objects, the model predicts 3" in problem.message


OVERLAPPING = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [4, 0, 14, 10], [30, 30, 40, 40]])
PROBABILITIES = torch.tensor([[0.9, 0, 0.1], [0.8, 0, 0.2], [0.6, 0, 0.4], [0.03, 0.5, 0.4]])


def test_soft_nms_keeps_overlapping_boxes_with_lower_scores() -> None:
    hard = Instances(2).select(OVERLAPPING[:, None], PROBABILITIES, SIZE)
    assert [value.tolist() for value in hard[2:]] == [[0, 0, 1], [0, 2, 3]]
    soft = Instances(2, soft_nms="linear").select(OVERLAPPING[:, None], PROBABILITIES, SIZE)
    by_row = dict(zip(soft[3].tolist(), soft[1].tolist()))
    assert by_row[0] == pytest.approx(0.9)
    assert by_row[1] == pytest.approx(0.8 * (1 - 9 / 11) * (1 - 7 / 13))
    assert by_row[3] == pytest.approx(0.5)
    assert soft[1].tolist() == sorted(soft[1].tolist(), reverse=True)
    few = Instances(2, soft_nms="gaussian", limit=2).select(OVERLAPPING[:, None], PROBABILITIES, SIZE)
    assert len(few[0]) == 2


def test_box_voting_averages_what_nms_dropped() -> None:
    boxes, scores, _, rows = Instances(2, box_voting=0.8).select(OVERLAPPING[:, None], PROBABILITIES, SIZE)
    assert rows.tolist() == [0, 2, 3]
    assert boxes[0].tolist() == pytest.approx([0.8 / 1.7, 0, 10 + 0.8 / 1.7, 10])
    assert scores.tolist() == pytest.approx([0.9, 0.6, 0.5])
    nothing = Instances(2, box_voting=0.8).select(torch.zeros(0, 1, 4), torch.zeros(0, 3), SIZE)
    assert [len(value) for value in nothing] == [0] * 4


@pytest.mark.parametrize("model", ["e2e_mask_rcnn_R-50-FPN_1x", "e2e_mask_rcnn_R-50-C4_1x"])
def test_masks_of_detectron_are_those_it_pastes(golden: Any, model: str) -> None:
    from pycocotools import mask

    facts, arrays = golden.load(f"pkl/{model}")
    output = Instances(80, convention="detectron")
    found = {name: torch.from_numpy(arrays[f"det_{name}"]) for name in ("boxes", "scores")}
    found |= {"labels": torch.from_numpy(arrays["det_classes"]) - 1, "masks": torch.from_numpy(arrays["mask_probs"])}
    decoded = output.decode([{**found, "size": torch.tensor(facts["segms"][0]["size"])}])
    known = np.moveaxis(mask.decode(facts["segms"]), 2, 0).astype(bool)
    assert (decoded["masks"].numpy() == known).mean() > 0.999
    assert golden.ok(decoded["boxes"] - torch.tensor([0, 0, 1, 1]), arrays["det_boxes"])
