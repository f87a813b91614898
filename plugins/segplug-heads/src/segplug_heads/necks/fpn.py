"""Feature pyramid network: coarse, semantically strong maps are added top-down to finer ones.

Feature Pyramid Networks for Object Detection, Lin et al., 2017 (https://arxiv.org/abs/1612.03144).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from segkernel.annotations import PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features, Neck
from segkernel.nn import ConvModule, LayerConfig, resize

ExtraSource = Literal["on_input", "on_lateral", "on_output"]


class FPN(Neck):
    """Feature maps, finest first -> ``num_outs`` maps of ``out_channels``, each half the size of the one before.

    The first ones have the sizes of the inputs from ``start_level`` on.

    Args:
        in_channels: Channels of each input.
        out_channels: Channels of the outputs.
        num_outs: Number of outputs.
        start_level: Index of the first input that is used.
        end_level: Index after the last input that is used; -1 uses all.
        add_extra_convs: How outputs coarser than all inputs are made. False subsamples the last output. The others are
            strided convolutions, the first of them on the last input (``on_input``), its lateral projection
            (``on_lateral``) or the last output (``on_output``). True is ``on_input`` with ``extra_convs_on_inputs``,
            otherwise ``on_output``.
        extra_convs_on_inputs: See ``add_extra_convs``.
        relu_before_extra_convs: Apply a ReLU before each extra convolution but the first.
        no_norm_on_lateral: The lateral convolutions have no norm.
        conv_cfg: Type of the convolutions; None is ``Conv2d``.
        norm_cfg: Type of the norms; None for no norm.
        act_cfg: Type of the activations; None for no activation.
        upsample_cfg: How coarser maps are upsampled: ``mode``, ``align_corners`` and ``scale_factor``, without which
            they get the size of the finer map.

    Raises:
        ConfigError: The levels and ``num_outs`` do not fit together.
    """

    conformance: ClassVar = (
        {"in_channels": [8, 16, 16], "out_channels": 8, "num_outs": 3},
        {"in_channels": [8, 16, 16], "out_channels": 8, "num_outs": 4, "start_level": 1, "add_extra_convs": "on_input"},
    )

    def __init__(
        self,
        in_channels: Sequence[PositiveInt],
        out_channels: PositiveInt,
        num_outs: PositiveInt,
        start_level: int = 0,
        end_level: int = -1,
        add_extra_convs: bool | ExtraSource = False,
        extra_convs_on_inputs: bool = False,
        relu_before_extra_convs: bool = False,
        no_norm_on_lateral: bool = False,
        conv_cfg: LayerConfig | None = None,
        norm_cfg: LayerConfig | None = None,
        act_cfg: LayerConfig | None = None,
        upsample_cfg: Mapping[str, Any] = {"mode": "nearest"},
    ) -> None:
        super().__init__()
        end = len(in_channels) if end_level == -1 else end_level
        _check_levels(len(in_channels), num_outs, start_level, end, fixed=end_level != -1)
        self.in_channels, self.num_outs, self.levels = tuple(in_channels), num_outs, range(start_level, end)
        self.extra_source = _extra_source(add_extra_convs, extra_convs_on_inputs)
        self.relu_before_extra_convs = relu_before_extra_convs
        self.upsample_cfg = dict(upsample_cfg)
        layers: dict[str, Any] = {"conv_cfg": conv_cfg, "act_cfg": act_cfg, "inplace": False}
        lateral_norm = None if no_norm_on_lateral else norm_cfg
        self.lateral_convs = nn.ModuleList(
            ConvModule(in_channels[level], out_channels, 1, norm_cfg=lateral_norm, **layers) for level in self.levels
        )
        self.fpn_convs = nn.ModuleList(
            ConvModule(out_channels, out_channels, 3, padding=1, norm_cfg=norm_cfg, **layers) for _ in self.levels
        )
        for i in range(num_outs - len(self.levels) if self.extra_source else 0):
            width = in_channels[end - 1] if i == 0 and self.extra_source == "on_input" else out_channels
            conv = ConvModule(width, out_channels, 3, stride=2, padding=1, norm_cfg=norm_cfg, **layers)
            self.fpn_convs.append(conv)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)

    def forward(self, features: Features) -> tuple[Tensor, ...]:
        if len(features) != len(self.in_channels):
            raise ConfigError(Problem(f"{len(features)} feature maps for {len(self.in_channels)} in_channels", "neck"))
        laterals = [conv(features[level]) for level, conv in zip(self.levels, self.lateral_convs)]
        for i in reversed(range(1, len(laterals))):
            laterals[i - 1] = laterals[i - 1] + self._upsample(laterals[i], laterals[i - 1])
        outs = [conv(x) for conv, x in zip(self.fpn_convs, laterals)]
        sources = {"on_input": features[self.levels[-1]], "on_lateral": laterals[-1], "on_output": outs[-1]}
        while len(outs) < self.num_outs:
            if self.extra_source is None:
                outs.append(F.max_pool2d(outs[-1], 1, stride=2))  # Faster R-CNN's P6: subsampling, no maximum
            elif len(outs) == len(self.levels):
                outs.append(self.fpn_convs[len(outs)](sources[self.extra_source]))
            else:
                last = F.relu(outs[-1]) if self.relu_before_extra_convs else outs[-1]
                outs.append(self.fpn_convs[len(outs)](last))
        return tuple(outs)

    def _upsample(self, coarse: Tensor, fine: Tensor) -> Tensor:
        if "scale_factor" in self.upsample_cfg:
            return resize(coarse, **self.upsample_cfg)
        return resize(coarse, fine.shape[2:], **self.upsample_cfg)


def _extra_source(add_extra_convs: bool | ExtraSource, on_inputs: bool) -> ExtraSource | None:
    if isinstance(add_extra_convs, bool):
        return ("on_input" if on_inputs else "on_output") if add_extra_convs else None
    if add_extra_convs not in get_args(ExtraSource):
        raise ConfigError(Problem(f"{add_extra_convs!r} is not one of {get_args(ExtraSource)}", "add_extra_convs"))
    return add_extra_convs


def _check_levels(inputs: int, num_outs: int, start: int, end: int, fixed: bool) -> None:
    """Refuse levels that leave no map; with a ``fixed`` end level, there can be no coarser outputs."""
    if not 0 <= start < end <= inputs:
        raise ConfigError(Problem(f"levels {start} to {end} of {inputs} feature maps", "start_level"))
    if num_outs < end - start or (fixed and num_outs != end - start):
        wanted = f"{end - start}" if fixed else f"{end - start} or more"
        raise ConfigError(Problem(f"{num_outs} outputs from levels {start} to {end}; {wanted} are needed", "num_outs"))
