"""VGG without its classifier, with or without batch norm and dilation.

    features = VGG(16, out_indices=(1, 2, 3, 4))(torch.rand(2, 3, 512, 512))  # strides 4, 8, 16, 32

Very Deep Convolutional Networks for Large-Scale Image Recognition, Simonyan and Zisserman, 2015
(https://arxiv.org/abs/1409.1556). Arguments and state-dict keys are mmpretrain's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from segkernel.annotations import PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.nn import ConvModule, FreezableBackbone, check_frozen_stages, check_out_indices
from segplug_backbones.pool import CeilMaxPool2d

BLOCKS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Table 1 of the paper: convolutions of each stage."""
CHANNELS = (64, 128, 256, 512, 512)


class VGG(FreezableBackbone):
    """Images (N, in_channels, H, W) to one feature map for each of ``out_indices``; odd sizes are rounded down.

    The map of a stage is the one after its pooling.

    Args:
        depth: 11, 13, 16 or 19.
        num_classes: mmpretrain's; must be -1, no classifier.
        num_stages: Stages to build, 1 to 5.
        dilations: Dilation of each stage's convolutions.
        out_indices: The stages to return, counted from 0; (4,) for None.
        frozen_stages: -1 and 0 freeze nothing, n the first n stages.
        conv_cfg: Type of the convolutions; None is ``Conv2d``.
        norm_cfg: Type of the norms and its arguments; None for no norm.
        act_cfg: Type of the activations.
        norm_eval: Keep batch norm in evaluation mode while training.
        ceil_mode: Pooling rounds odd sizes up.
        with_last_pool: Whether the last stage has a pooling.
        in_channels: Channels of the image.
        skip_maps: The map of a stage is the one before its pooling, as decoders join them, at strides 1, 2, 4, 8 and
            16. With the last pooling there is one more in ``out_indices``, its result.

    Raises:
        ConfigError: When an argument is out of range or does not fit the others.
    """

    pyramid: ClassVar[Mapping[int, Mapping[str, Any]]] = {
        5: {"skip_maps": True, "out_indices": (1, 2, 3, 4, 5)},
        4: {"skip_maps": True, "out_indices": (1, 2, 3, 4), "with_last_pool": False},
        3: {
            "skip_maps": True,
            "out_indices": (1, 2, 3),
            "with_last_pool": False,
            "num_stages": 4,
            "dilations": (1,) * 4,
        },
    }
    conformance: ClassVar = (
        {"depth": 11, "num_stages": 3, "dilations": (1, 1, 1), "out_indices": (0, 1, 2)},
        {"depth": 11, "norm_cfg": {"type": "BN"}, "with_last_pool": False, "ceil_mode": True},
    )

    def __init__(
        self,
        depth: Literal[11, 13, 16, 19],
        num_classes: int = -1,
        num_stages: PositiveInt = 5,
        dilations: Sequence[PositiveInt] = (1, 1, 1, 1, 1),
        out_indices: Sequence[int] | None = None,
        frozen_stages: int = -1,
        conv_cfg: Mapping[str, Any] | None = None,
        norm_cfg: Mapping[str, Any] | None = None,
        act_cfg: Mapping[str, Any] = {"type": "ReLU"},
        norm_eval: bool = False,
        ceil_mode: bool = False,
        with_last_pool: bool = True,
        in_channels: PositiveInt = 3,
        skip_maps: bool = False,
    ) -> None:
        super().__init__()
        _check(depth, num_classes, num_stages, dilations)
        self.skip_maps = skip_maps
        maps = num_stages + (skip_maps and with_last_pool)
        self.out_indices = check_out_indices((4,) if out_indices is None else out_indices, maps)
        self.frozen_stages, self.norm_eval = check_frozen_stages(frozen_stages, -1, num_stages), norm_eval
        layers: dict[str, Any] = {"bias": True, "conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        self.features = nn.Sequential()
        self._ends: list[int] = []
        """Index after the last layer of each stage in ``features``."""
        for i, (channels, dilation) in enumerate(zip(CHANNELS, dilations)):
            for _ in range(BLOCKS[depth][i]):
                self.features.append(
                    ConvModule(in_channels, channels, 3, padding=dilation, dilation=dilation, **layers)
                )
                in_channels = channels
            if with_last_pool or i < num_stages - 1:
                self.features.append(CeilMaxPool2d(2) if ceil_mode else nn.MaxPool2d(2))
            self._ends.append(len(self.features))
        strides = [2 ** (i + 1) for i in range(num_stages)]
        strides[-1] //= 1 if with_last_pool else 2  # a stage halves the size only by the pooling at its end
        widths = CHANNELS[:num_stages]
        if skip_maps:
            widths, strides = (*widths, widths[-1]), [1, *strides][:maps]
        self.channels = tuple(widths[i] for i in self.out_indices)
        self.strides = tuple(strides[i] for i in self.out_indices)
        self.freeze_stages()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of ``out_indices``, (N, channels[i], ~H / strides[i], ~W / strides[i])."""
        x, outputs = images, []
        for start, end in zip((0, *self._ends), self._ends):
            for layer in list(self.features)[start:end]:
                if self.skip_maps and not isinstance(layer, ConvModule):
                    outputs.append(x)
                x = layer(x)
            if not self.skip_maps:
                outputs.append(x)
        outputs.append(x)
        return tuple(outputs[i] for i in self.out_indices)

    def frozen_modules(self) -> list[nn.Module]:
        return [] if self.frozen_stages < 1 else [self.features[: self._ends[self.frozen_stages - 1]]]


def _check(depth: int, num_classes: int, num_stages: int, dilations: Sequence[int]) -> None:
    if depth not in BLOCKS:
        raise ConfigError(Problem(f"{depth} is not one of {', '.join(map(str, BLOCKS))}", "depth"))
    if num_classes > 0:
        raise ConfigError(Problem("a backbone has no classifier", "num_classes", hint="leave it out"))
    if not 1 <= num_stages <= len(CHANNELS):
        raise ConfigError(Problem(f"{num_stages} is not 1 to {len(CHANNELS)}", "num_stages"))
    if len(dilations) != num_stages:
        message = f"{list(dilations)} needs {num_stages} numbers, one for each of the num_stages"
        raise ConfigError(Problem(message, "dilations"))
