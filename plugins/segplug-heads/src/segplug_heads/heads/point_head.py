"""PointRend: coarse logits, refined at the points where they are uncertain.

PointRend: Image Segmentation as Rendering, Kirillov et al., 2020 (https://arxiv.org/abs/1912.08193).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.annotations import NonNegativeInt, Positive, PositiveInt, Probability
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features
from segkernel.labels import Task
from segkernel.nn import (
    CascadeDecodeHead,
    ConvModule,
    HeadArguments,
    LayerConfig,
    StridedLogits,
    normal_init,
    resize,
    sum_by_name,
)
from segkernel.sample import Targets
from segplug_heads.heads.point_sampling import PointSampling, sample_points, uncertain_points, uncertainty
from segplug_heads.heads.sizes import at_most


@dataclass(frozen=True)
class Subdivision:
    """Settings of the refinement in inference, section 3.1 of the paper.

    Args:
        subdivision_steps: Times the logits are upsampled.
        subdivision_num_points: Pixels that each step predicts again, the most uncertain ones.
        scale_factor: Factor of each upsampling.
    """

    subdivision_steps: int
    subdivision_num_points: int
    scale_factor: float


class PointHead(CascadeDecodeHead):
    """Feature maps and coarse logits (N, K, h, w) -> logits (N, K, s h, s w), s = scale_factor ** subdivision_steps.

    An MLP predicts single points from the feature maps and the coarse logits at the point. It is trained at random
    points, most of them where the coarse logits are uncertain. For inference, the logits are upsampled step by step,
    and in each step the most uncertain pixels are predicted again. The losses are logged as ``pointloss_ce`` and so on.

    The settings of points and subdivision can also be in the segmentor's ``train_cfg`` and ``test_cfg``, which
    take precedence.

    Args:
        num_fcs: Layers of the MLP.
        coarse_pred_each_layer: Concatenate the coarse logits to the input of every layer, not of the first alone.
        conv_cfg: Type of the layers, one-dimensional convolutions.
        norm_cfg: Type of the norms, one-dimensional; None for no norm.
        act_cfg: Type of the activations.
        num_points: Training points per image.
        oversample_ratio: Uniform candidates per training point.
        importance_sample_ratio: Fraction of the training points that are the most uncertain candidates.
        subdivision_steps: Times the logits are upsampled in inference.
        subdivision_num_points: Pixels that each step predicts again; 8196, not 8192, is the authors' default.
        scale_factor: Factor of each upsampling.

    Raises:
        ConfigError: An argument is out of range.
    """

    fixed_arguments = frozenset({"input_transform"})
    tasks: ClassVar[tuple[Task, ...]] = ("multiclass",)
    conformance: ClassVar = {
        "in_channels": [8], "in_index": [0], "channels": 8, "num_classes": 4, "num_points": 16, "num_fcs": 2,
        "subdivision_num_points": 64,
    }  # fmt: skip

    def __init__(
        self,
        num_fcs: PositiveInt = 3,
        coarse_pred_each_layer: bool = True,
        conv_cfg: LayerConfig | None = {"type": "Conv1d"},  # noqa: B006  never changed
        norm_cfg: LayerConfig | None = None,
        act_cfg: LayerConfig | None = {"type": "ReLU", "inplace": False},  # noqa: B006  never changed
        num_points: PositiveInt = 2048,
        oversample_ratio: Annotated[float, Ge(1)] = 3.0,
        importance_sample_ratio: Probability = 0.75,
        subdivision_steps: NonNegativeInt = 2,
        subdivision_num_points: PositiveInt = 8196,
        scale_factor: Positive = 2.0,
        **kwargs: Unpack[HeadArguments],
    ) -> None:
        super().__init__(
            input_transform="multiple_select", conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg, **kwargs
        )
        del self.conv_seg  # fc_seg predicts the points
        self.coarse_pred_each_layer = coarse_pred_each_layer
        width = sum(self.in_channels) + self.out_channels
        hidden = self.channels + (self.out_channels if coarse_pred_each_layer else 0)
        self.fcs = nn.ModuleList(
            ConvModule(hidden if i else width, self.channels, 1, **self.layer_cfgs) for i in range(num_fcs)
        )
        self.fc_seg = nn.Conv1d(hidden, self.out_channels, 1)
        normal_init(self.fc_seg, std=0.01)  # PointRend's: the points start near equal logits
        if self.dropout is not None:
            self.dropout = nn.Dropout(self.dropout_ratio)  # points (N, channels, P) have no maps to drop whole
        self.training_points = PointSampling(num_points, oversample_ratio, importance_sample_ratio)
        self.subdivision = Subdivision(subdivision_steps, subdivision_num_points, scale_factor)
        self._check_ranges()

    def configure(self, train_cfg: Mapping[str, Any], test_cfg: Mapping[str, Any]) -> None:
        self.training_points = replace(self.training_points, **_fields_of(PointSampling, train_cfg))
        self.subdivision = replace(self.subdivision, **_fields_of(Subdivision, test_cfg))
        self._check_ranges()

    def forward(self, features: Features, previous: Tensor) -> Tensor:  # type: ignore[override]  # as CascadeHead
        """Return the refined logits; ``previous`` are the coarse ones."""
        maps, refined = self.select(features), previous
        for _ in range(self.subdivision.subdivision_steps):
            refined = resize(refined, scale_factor=self.subdivision.scale_factor, align_corners=self.align_corners)
            index, points = most_uncertain_pixels(refined, self.subdivision.subdivision_num_points)
            logits = self.predict_points(maps, previous, points).to(refined.dtype)
            index = index.unsqueeze(1).expand(-1, logits.shape[1], -1)
            refined = refined.flatten(2).scatter(2, index, logits).view_as(refined)
        return refined

    def predict_points(self, maps: list[Tensor], previous: Tensor, points: Tensor) -> Tensor:
        """Return logits (N, K, P) at ``points`` (N, P, 2), which are (x, y) from 0 to 1."""
        coarse = sample_points(previous, points, align_corners=self.align_corners)
        fine = [sample_points(x, points, align_corners=self.align_corners) for x in maps]
        x = torch.cat([*fine, coarse], 1)
        for fc in self.fcs:
            x = fc(x)
            if self.coarse_pred_each_layer:
                x = torch.cat([x, coarse], 1)
        return self.fc_seg(x if self.dropout is None else self.dropout(x))

    def loss(self, features: Features, previous: Tensor, targets: Targets) -> dict[str, Tensor]:  # type: ignore[override]
        points = uncertain_points(previous, uncertainty, self.training_points)
        logits = self.predict_points(self.select(features), previous, points)
        labels = self._at_points(targets["seg"], points).long()
        weight = targets.get("weight")
        weight = None if weight is None else self._at_points(weight, points)
        losses = sum_by_name(
            (f"point{loss.name}", loss(logits, labels, weight=weight, ignore_index=self.ignore_index))
            for loss in self._losses()
        )
        return losses | {"acc_point": self._accuracy(StridedLogits(logits, labels.shape[1:]), labels)}

    def _at_points(self, raster: Tensor, points: Tensor) -> Tensor:
        """Return the values (N, P) of (N, H, W) at the pixels nearest to ``points``."""
        raster = raster.float().unsqueeze(1)
        return sample_points(raster, points, mode="nearest", align_corners=self.align_corners).squeeze(1)

    def _check_ranges(self) -> None:
        training, subdivision = self.training_points, self.subdivision
        if not training.oversample_ratio >= 1:
            raise ConfigError(Problem(f"{training.oversample_ratio} is less than 1", "oversample_ratio"))
        if not 0 <= training.importance_sample_ratio <= 1:
            message = f"{training.importance_sample_ratio} is not a fraction from 0 to 1"
            raise ConfigError(Problem(message, "importance_sample_ratio"))
        if training.num_points < 1:
            raise ConfigError(Problem(f"{training.num_points} points", "num_points"))
        if subdivision.subdivision_num_points < 1:
            raise ConfigError(Problem(f"{subdivision.subdivision_num_points} points", "subdivision_num_points"))


def most_uncertain_pixels(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the ``count`` pixels, or all there are, where ``logits`` (N, K, H, W) are most uncertain.

    The first of the two tensors is their index in the flattened map, (N, P), the second their centres, (N, P, 2).
    """
    height, width = logits.shape[2:]
    x = (torch.arange(width, device=logits.device) + 0.5) / width
    y = (torch.arange(height, device=logits.device) + 0.5) / height
    centres = torch.stack([x.expand(height, width), y.unsqueeze(1).expand(height, width)], 2).flatten(0, 1)
    index = uncertainty(logits.flatten(2)).topk(at_most(height * width, count), dim=1).indices
    return index, centres[index]


def _fields_of(cls: type, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a config that are fields of a dataclass."""
    return {entry.name: config[entry.name] for entry in fields(cls) if entry.name in config}
