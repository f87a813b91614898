"""The output of instance models: boxes with scores and classes, and optionally masks and keypoints.

output = Instances(classes=80, limit=50)
boxes, scores, labels, rows = output.select(boxes, scores, size)    # what a model does with its boxes
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample, one_hot

from segkernel.annotations import NonNegativeInt, Positive, PositiveInt, Probability
from segkernel.errors import Problem, UsageError
from segkernel.geometry import Size
from segkernel.interfaces.output import Output
from segkernel.labels import Color
from segplug_instances import pictures
from segplug_instances.boxes import clip, from_convention, iou, sides
from segplug_instances.conventions import DETECTRON, Convention, ConventionName, convention_of
from segplug_instances.keypoint_maps import decode_keypoints
from segplug_instances.nms import SoftNMSMethod, VotedScore
from segplug_instances.paste import paste
from segplug_instances.results import BoxVoting, SoftNMS, detections
from segplug_instances.transforms import resized

Raw = list[dict[str, Tensor]]
Points = tuple[NonNegativeInt, NonNegativeInt]

PERSON_PAIRS = ((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16))
"""The left and right points of COCO's persons, of 17 points."""
PERSON_SKELETON = (
    *((0, 1), (0, 2), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 6), (5, 7), (7, 9), (6, 8), (8, 10)),
    *((5, 11), (6, 12), (11, 12), (11, 13), (13, 15), (12, 14), (14, 16)),
)
"""The connected points of COCO's persons."""
_MOST_MASK_BYTES = 2**32
_LEAST_SHOWN = {"logit": 2.0, "map": 0.05, "resized": 0.0}
"""Score of a keypoint above which pictures show it, by `Convention.keypoint_score`."""


@dataclass(frozen=True)
class Instances(Output):
    """Objects: boxes (n, 4), scores (n,), labels (n,), and optionally masks and keypoints.

    Raw values are a list of one mapping per image, in the pixels of the model's input and in the coordinates of the
    convention: ``boxes``, ``scores``, ``labels`` and optionally ``masks`` (n, M, M), probabilities in the box, and
    ``keypoint_maps`` (n, points, S, S), logits in the box.

    They are decoded to a mapping of ``boxes`` (left, top, right, bottom, in the coordinates of samples), ``scores``,
    ``labels``, ``masks`` (n, H, W) bool and ``keypoints`` (n, points, 3): x, y and score.

    In test-time augmentation, the boxes of all views are joined, and NMS is done once more. The masks and heat maps of
    a box are averaged with those of other views that overlap it by ``nms_threshold`` or more.

    Args:
        classes: Number of classes, without background.
        convention: Whose rules are followed.
        score_threshold: Score above which a box is an object.
        nms_threshold: IoU from which the box of lower score is dropped.
        limit: Largest number of objects in an image.
        soft_nms: Lower the scores of overlapping boxes instead of dropping them: ``linear`` or ``gaussian``.
        soft_nms_sigma: Of the Gaussian.
        box_voting: Average each box over all boxes that overlap it by this IoU; None does not.
        voted_score: How the score of such a box is computed, see `segplug_instances.nms.box_voting`; ``id`` keeps it.
        mask_threshold: Probability above which a pixel is inside.
        keypoint_pairs: Left and right points, which a mirrored image swaps; COCO's for 17 points when None.
        skeleton: Points that pictures connect; COCO's for 17 points when None.
        shown_score: Score from which pictures show an object.
        resize_rule: Shortest side, and limit of the longest, to which test images were resized. Results are then
            divided by the one factor of this rule, as Detectron does; by the ratio of each axis when None.
    """

    classes: PositiveInt
    convention: ConventionName = "torchvision"
    score_threshold: Probability = 0.05
    nms_threshold: Probability = 0.5
    limit: PositiveInt = 100
    soft_nms: SoftNMSMethod | None = None
    soft_nms_sigma: Positive = 0.5
    box_voting: Probability | None = None
    voted_score: VotedScore = "id"
    mask_threshold: Probability = 0.5
    keypoint_pairs: tuple[Points, ...] | None = None
    skeleton: tuple[Points, ...] | None = None
    shown_score: Probability = 0.5
    resize_rule: tuple[PositiveInt, PositiveInt] | None = None

    @property
    def rules(self) -> Convention:
        """The convention's rules."""
        return convention_of(self.convention)

    @property
    def connections(self) -> tuple[Points, ...]:
        """Points that pictures connect."""
        return self.skeleton if self.skeleton is not None else PERSON_SKELETON

    def select(self, boxes: Tensor, scores: Tensor, size: Size) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the objects of an image: boxes (n, 4), scores (n,), labels (n,), and their rows in ``boxes`` (n,).

        Args:
            boxes: (N, K, 4), a box for each class, or (N, 1, 4).
            scores: Probabilities (N, K + 1), the background last.
            size: Height and width to which boxes are cut.
        """
        options = (self.score_threshold, self.nms_threshold, self.limit, self.rules)
        soft: SoftNMS | None = None
        if self.soft_nms is not None:
            soft = {"method": self.soft_nms, "sigma": self.soft_nms_sigma}
        voting: BoxVoting | None = None
        if self.box_voting is not None:
            voting = {"threshold": self.box_voting, "scoring": self.voted_score}
        return detections(boxes, scores, size, *options, soft, voting)

    def resize(self, raw: Raw, old: Size, new: Size) -> Raw:
        def resized(image: dict[str, Tensor]) -> dict[str, Tensor]:
            if "keypoint_maps" in image and not self.rules.late_keypoints:
                image = self._with_keypoints(image)
            factors = image["boxes"].new_tensor(self.factors(old, new))
            boxes = clip(image["boxes"] * torch.cat([factors, factors]), new, self.rules)
            image = {**image, "boxes": boxes, "size": torch.tensor(new)}
            return _with_points(image, lambda xy: xy * factors)

        return [resized(image) for image in raw]

    def flip(self, raw: Raw, size: Size) -> Raw:
        def flipped(image: dict[str, Tensor]) -> dict[str, Tensor]:
            x1, y1, x2, y2 = image["boxes"].unbind(1)
            last = size[1] - self.rules.edge
            image = {**image, "boxes": torch.stack([last - x2, y1, last - x1, y2], 1)}
            image |= {name: image[name].flip(-1) for name in ("masks", "keypoint_maps") if name in image}
            width = size[1] - 1 + 2 * self.rules.keypoint_centre
            image = _with_points(image, lambda xy: torch.stack([width - xy[..., 0], xy[..., 1]], -1))
            for name in {"keypoints", "keypoint_maps"} & image.keys():
                image[name] = image[name][:, self._mirrored(image[name].shape[1])]
            return image

        return [flipped(image) for image in raw]

    def crop(self, raw: Raw, size: Size) -> Raw:
        return [{**image, "boxes": clip(image["boxes"], size, self.rules)} for image in raw]

    def merge(self, merged: Raw | None, raw: Raw) -> Raw:
        if merged is None:
            return raw
        joined = [{name: torch.cat([a[name], b[name]]) for name in a if name != "size"} for a, b in zip(merged, raw)]
        return [{**image, "size": last["size"]} for image, last in zip(joined, raw)]

    def mean(self, merged: Raw, count: int) -> Raw:
        return [self._agreed(image) for image in merged] if count > 1 else merged

    def decode(self, raw: Raw, activated: bool = False) -> dict[str, Tensor]:
        (image,) = raw
        image = self._with_keypoints(image) if "keypoint_maps" in image else image
        found = {name: image[name] for name in ("scores", "labels")}
        found["boxes"] = from_convention(image["boxes"], self.rules)
        if "masks" in image:
            height, width = image["size"].tolist()
            _check_memory(len(image["masks"]), height, width)
            found["masks"] = paste(image["masks"], image["boxes"], (height, width), self.rules, self.mask_threshold)
        image = _with_points(image, lambda xy: xy + 0.5 - self.rules.keypoint_centre)
        return found | {name: image[name] for name in ("keypoints",) if name in image}

    def pack(self, raw: Raw) -> dict[str, Tensor]:
        """Return raw values as tensors (N, limit, ...), for files; rows without an object have a score of 0."""
        names = [name for name in raw[0] if name != "size"]
        return {name: torch.stack([_filled_up(image[name], self.limit) for image in raw]) for name in names}

    def unpack(self, tensors: Mapping[str, Tensor]) -> Raw:
        """Return raw values from the result of `pack`."""
        found = (scores > 0 for scores in tensors["scores"])
        return [{name: tensors[name][i][kept] for name in tensors} for i, kept in enumerate(found)]

    def mismatch(self, dataset: Any) -> Problem | None:
        name, count = type(dataset).__name__, len(dataset.classes)
        if self.classes == count:
            return None
        hint = f"set model.num_classes: {count}, or reference ${{data.num_classes}}"
        return Problem(f"{name} has {count} classes of objects, the model predicts {self.classes}", hint=hint)

    def draw(
        self, image: np.ndarray, field: Any, classes: Sequence[str], palette: Sequence[Color], opacity: float
    ) -> np.ndarray:
        """Return an image (H, W, 3) uint8 RGB with the objects of a decoded field, or of `Targets`, drawn over it."""
        height, width = image.shape[:2]
        objects = pictures.objects_of(field, (height, width)).above(self.shown_score)
        if objects.scores is not None and objects.keypoints is not None:
            objects.keypoints[..., 2] -= _LEAST_SHOWN[self.rules.keypoint_score]
        return pictures.draw(image, objects, classes, opacity, self.connections)

    def results(self, field: Mapping[str, Tensor]) -> list[dict[str, Any]]:
        """Return the objects of a decoded field as entries of a COCO result file, with the classes' numbers."""
        from segplug_instances.coco_json import results_of

        return results_of({name: value.cpu().numpy() for name, value in field.items()})

    def factors(self, old: Size, new: Size) -> tuple[float, float]:
        """Return what x and y are multiplied by if images of size ``old`` get the size ``new``."""
        if self.resize_rule is not None:
            size, factor = resized(new, *self.resize_rule, DETECTRON)
            if tuple(old) == size:
                return 1 / factor, 1 / factor
        return new[1] / old[1], new[0] / old[0]

    def _with_keypoints(self, image: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return an image whose heat maps are decoded at its present size."""
        rest = {name: value for name, value in image.items() if name != "keypoint_maps"}
        points, _ = decode_keypoints(image["keypoint_maps"], image["boxes"], self.rules)
        return {**rest, "keypoints": points}

    def _mirrored(self, count: int) -> list[int]:
        """Return the places of points after left and right are swapped."""
        pairs = self.keypoint_pairs if self.keypoint_pairs is not None else PERSON_PAIRS if count == 17 else ()
        swapped = dict(pairs) | {right: left for left, right in pairs}
        return [swapped.get(place, place) for place in range(count)]

    def _agreed(self, image: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the objects of several views, joined, as those of one."""
        labels, scores = image["labels"], image["scores"]
        by_class = one_hot(labels, self.classes + 1) * scores[:, None]
        height, width = image["size"].tolist()
        boxes, scores, kept_labels, rows = self.select(image["boxes"][:, None], by_class, (height, width))
        same = (kept_labels[:, None] == labels) & (iou(boxes, image["boxes"], self.rules) >= self.nms_threshold)
        same[torch.arange(len(rows)), rows] = True
        kept, views = same.nonzero().unbind(1)
        found = {"boxes": boxes, "scores": scores, "labels": kept_labels, "size": image["size"]}
        for name in {"masks", "keypoint_maps"} & image.keys():
            maps = image[name] if image[name].ndim == 4 else image[name][:, None]
            border = "zeros" if name == "masks" else "border"
            moved = self._moved(maps[views], image["boxes"][views], boxes[kept], border)
            found[name] = _means(moved, kept, len(rows)).reshape(len(rows), *image[name].shape[1:])
        if "keypoints" in image:
            found["keypoints"] = _means(image["keypoints"][views], kept, len(rows))
        return found

    def _moved(self, maps: Tensor, old: Tensor, new: Tensor, border: str) -> Tensor:
        """Return maps (n, C, M, M) of boxes ``old`` (n, 4) as maps of boxes ``new``."""
        if not len(maps):
            return maps
        centres = (torch.arange(maps.shape[-1], device=maps.device) + 0.5) / maps.shape[-1]
        axes = []
        for axis, old_side, new_side in zip((0, 1), sides(old, self.rules), sides(new, self.rules)):
            places = new[:, axis, None] + centres * new_side[:, None]
            axes.append((places - old[:, axis, None]) / old_side[:, None].clamp(min=1e-6) * 2 - 1)
        x, y = axes
        grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), -1)
        return grid_sample(maps, grid, padding_mode=border, align_corners=False)


def _check_memory(count: int, height: int, width: int) -> None:
    if (needed := count * height * width) > _MOST_MASK_BYTES:
        what = f"{count} masks of {height} x {width} pixels take {needed / 2**30:.1f} GiB"
        raise UsageError(f"{what}: lower model.output.limit, or raise model.output.score_threshold")


def _with_points(image: dict[str, Tensor], change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Return an image with ``change`` applied to the positions (n, points, 2) of its keypoints, if it has any."""
    if "keypoints" not in image:
        return image
    points = image["keypoints"]
    return {**image, "keypoints": torch.cat([change(points[..., :2]), points[..., 2:]], -1)}


def _filled_up(values: Tensor, count: int) -> Tensor:
    """Return the first ``count`` rows of values (n, ...), and rows of 0 where there are fewer."""
    return torch.cat([values, values.new_zeros(count, *values.shape[1:])])[:count]


def _means(values: Tensor, groups: Tensor, count: int) -> Tensor:
    """Return the means (count, ...) of the values (n, ...) of each group."""
    sums = values.new_zeros(count, *values.shape[1:]).index_add_(0, groups, values)
    sizes = torch.bincount(groups, minlength=count).clamp(min=1)
    return sums / sizes.reshape(-1, *[1] * (values.ndim - 1))
