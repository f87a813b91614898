"""Dilation of stages that are already built."""

from __future__ import annotations

from torch import nn

from segplug_backbones.layers import AdaptivePaddingConv2d


def dilate(stage: nn.Module, factor: int) -> None:
    """Replace the stride of a stage by the dilation of all its convolutions, as segmentation_models_pytorch does.

    Args:
        stage: Changed in place; only convolutions may have a stride.
        factor: The dilation, and factor of the padding.
    """
    for module in stage.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
            if (size := module.kernel_size[0]) > 1:
                module.dilation = (factor, factor)
                if not isinstance(module, AdaptivePaddingConv2d):
                    module.padding = (factor * (size // 2),) * 2
