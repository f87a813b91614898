"""PointRend: coarse scores, refined point by point where they are uncertain.

Kirillov et al., PointRend: Image Segmentation as Rendering, 2020 (https://arxiv.org/abs/1912.08193).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.data import Task
from segkernel.interfaces.model import Features
from segkernel.nn import (
    CascadeDecodeHead,
    ConvModule,
    DecodeHeadArguments,
    LayerConfig,
    accuracy,
    normal_init,
    resize,
)
from segkernel.sample import Targets
from segplug_heads.heads.point_sampling import sample_points, uncertain_points


class PointHead(CascadeDecodeHead):
    """Feature maps and coarse scores (N, K, h, w) -> scores (N, K, h * s, w * s), s = scale_factor^subdivision_steps.

    A small network scores single points from the feature maps and the coarse scores there. It learns at random
    points, more of them where the coarse scores are uncertain; to predict, scores are enlarged in steps, and in each
    the most uncertain pixels are scored anew. The losses are called ``pointloss_ce`` and the like.

    The numbers of points and steps can also stand in ``train_cfg`` and ``test_cfg`` of the segmentor, which wins.

    Args:
        num_fcs: Layers of the network.
        coarse_pred_each_layer: Every layer sees the coarse scores, not the first alone.
        conv_cfg: Kind of layer, one-dimensional.
        norm_cfg: Kind of norm layer, likewise; none for None.
        act_cfg: Kind of activation.
        num_points: Points to learn at.
        oversample_ratio: How many times as many are drawn to choose from.
        importance_sample_ratio: Share of the points that are chosen for uncertainty.
        subdivision_steps: Times the scores are enlarged when predicting.
        subdivision_num_points: Pixels scored anew each time.
        scale_factor: Of each enlarging.

    Raises:
        ConfigError: When an argument is out of range.
    """

    fixed_arguments = frozenset({"input_transform"})
    tasks: ClassVar[tuple[Task, ...]] = ("multiclass",)
    conformance: ClassVar = {
        "in_channels": [8], "in_index": [0], "channels": 8, "num_classes": 4, "num_points": 16, "num_fcs": 2,
        "subdivision_num_points": 64,
    }  # fmt: skip

    def __init__(
        self,
        num_fcs: int = 3,
        coarse_pred_each_layer: bool = True,
        conv_cfg: LayerConfig | None = {"type": "Conv1d"},  # noqa: B006  never changed
        norm_cfg: LayerConfig | None = None,
        act_cfg: LayerConfig | None = {"type": "ReLU", "inplace": False},  # noqa: B006
        num_points: int = 2048,
        oversample_ratio: float = 3.0,
        importance_sample_ratio: float = 0.75,
        subdivision_steps: int = 2,
        subdivision_num_points: int = 8196,
        scale_factor: float = 2.0,
        **kwargs: Unpack[DecodeHeadArguments],
    ) -> None:
        cfgs: Any = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        super().__init__(input_transform="multiple_select", **cfgs, **kwargs)
        del self.conv_seg  # points are scored by fc_seg
        self.coarse_pred_each_layer = coarse_pred_each_layer
        coarse = self.out_channels
        later = self.channels + (coarse if coarse_pred_each_layer else 0)
        self.fcs = nn.ModuleList(
            ConvModule(later if i else sum(self.in_channels) + coarse, self.channels, 1, **cfgs) for i in range(num_fcs)
        )
        self.fc_seg = nn.Conv1d(later, self.out_channels, 1)
        normal_init(self.fc_seg, std=0.01)
        self.dropout = None if self.dropout is None else nn.Dropout(self.dropout.p)
        self.training_points = {
            "num_points": num_points,
            "oversample_ratio": oversample_ratio,
            "importance_sample_ratio": importance_sample_ratio,
        }
        self.subdivision = {
            "subdivision_steps": subdivision_steps,
            "subdivision_num_points": subdivision_num_points,
            "scale_factor": scale_factor,
        }
        self._check_numbers()

    def configure(self, train_cfg: Mapping[str, Any], test_cfg: Mapping[str, Any]) -> None:
        for numbers, given in ((self.training_points, train_cfg), (self.subdivision, test_cfg)):
            numbers.update({key: given[key] for key in numbers if key in given})
        self._check_numbers()

    def forward(self, features: Features, previous: Tensor) -> Tensor:
        """Return the refined scores; ``previous`` are the coarse ones."""
        maps, refined = self.select(features), previous
        for _ in range(self.subdivision["subdivision_steps"]):
            refined = resize(refined, scale_factor=self.subdivision["scale_factor"], align_corners=self.align_corners)
            index, centres = most_uncertain_pixels(refined, self.subdivision["subdivision_num_points"])
            scores = self.score_points(maps, previous, centres).to(refined.dtype)
            index = index.unsqueeze(1).expand(-1, scores.shape[1], -1)
            refined = refined.flatten(2).scatter(2, index, scores).view_as(refined)
        return refined

    def score_points(self, maps: list[Tensor], previous: Tensor, points: Tensor) -> Tensor:
        """Return scores (N, K, P) at ``points`` (N, P, 2), which are (x, y) from 0 to 1."""
        coarse = sample_points(previous, points, align_corners=self.align_corners)
        x = torch.cat([*(sample_points(x, points, align_corners=self.align_corners) for x in maps), coarse], 1)
        for fc in self.fcs:
            x = fc(x)
            if self.coarse_pred_each_layer:
                x = torch.cat([x, coarse], 1)
        return self.fc_seg(x if self.dropout is None else self.dropout(x))

    def loss(self, features: Features, previous: Tensor, targets: Targets) -> dict[str, Tensor]:  # type: ignore[override]
        points = uncertain_points(previous, uncertainty, **self.training_points)  # type: ignore[arg-type]
        scores = self.score_points(self.select(features), previous, points)
        labels = self._at_points(targets["seg"], points).long()
        weight = targets.get("weight")
        weight = None if weight is None else self._at_points(weight, points)
        named: dict[str, Tensor] = {}
        for loss in self._losses():
            name = f"point{loss.name}"
            value = loss(scores, labels, weight=weight, ignore_index=self.ignore_index)
            named[name] = named[name] + value if name in named else value
        named["acc_point"] = accuracy(scores, labels, ignore_index=self.ignore_index)  # type: ignore[assignment]
        return named

    def _at_points(self, raster: Tensor, points: Tensor) -> Tensor:
        """Return the values (N, P) of (N, H, W) at the pixels nearest to ``points``."""
        raster = raster.float().unsqueeze(1)
        return sample_points(raster, points, mode="nearest", align_corners=self.align_corners).squeeze(1)

    def _check_numbers(self) -> None:
        numbers = {**self.training_points, **self.subdivision}
        if not numbers["oversample_ratio"] >= 1:
            raise ConfigError(Problem(f"{numbers['oversample_ratio']} is below 1", "oversample_ratio"))
        if not 0 <= numbers["importance_sample_ratio"] <= 1:
            message = f"{numbers['importance_sample_ratio']} is no share from 0 to 1"
            raise ConfigError(Problem(message, "importance_sample_ratio"))
        for name in ("num_points", "subdivision_num_points"):
            if numbers[name] < 1:
                raise ConfigError(Problem(f"{numbers[name]} points", name))


def uncertainty(scores: Tensor) -> Tensor:
    """Return how near the best two of scores (N, K, P) are, (N, P): 0 at a tie, lower where the best is clear.

    The score of a single class is a tie at 0.
    """
    if scores.shape[1] == 1:
        return -scores[:, 0].abs()
    best, second = scores.topk(2, dim=1).values.unbind(1)
    return second - best


def most_uncertain_pixels(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the ``count`` pixels, or all there are, where ``scores`` (N, K, H, W) are most uncertain.

    The first of the two tensors is their index in the flattened map, (N, P), the second their centres, (N, P, 2).
    """
    height, width = scores.shape[2:]
    x = (torch.arange(width, device=scores.device) + 0.5) / width
    y = (torch.arange(height, device=scores.device) + 0.5) / height
    centres = torch.stack([x.expand(height, width), y.unsqueeze(1).expand(height, width)], 2).flatten(0, 1)
    index = uncertainty(scores.flatten(2)).topk(torch.sym_min(count, height * width), dim=1).indices
    return index, centres[index]
