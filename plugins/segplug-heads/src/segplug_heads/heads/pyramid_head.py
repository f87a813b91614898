"""What decoders on the feature maps of any backbone share: the choice of maps by stride, classifier and upsampling."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from typing_extensions import Required, Unpack

from segkernel.annotations import PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.nn import DecodeHead, HeadOptions, LayerConfigs, resize

InterpolateMode = Literal["nearest", "nearest-exact", "bilinear", "bicubic", "area"]
KernelSize = Literal[1, 3]


class LevelArguments(HeadOptions, LayerConfigs, total=False):
    """Arguments of `DecodeHead` except ``channels`` and ``input_transform``."""

    in_channels: Required[Sequence[PositiveInt]]
    num_classes: Required[PositiveInt]


class UpsampledArguments(LevelArguments, total=False):
    """Arguments of `PyramidHead` except ``channels`` and the classifier's kernel size."""

    upsampling: PositiveInt
    feature_strides: Sequence[PositiveInt] | None


class PyramidArguments(UpsampledArguments, total=False):
    """Arguments of `PyramidHead` except ``channels``."""

    classifier_kernel_size: KernelSize


class PyramidHead(DecodeHead):
    """Base class of heads on feature maps of several strides, finest first.

    In a `PyramidEncoderDecoder` the head chooses its maps by `select_maps`; elsewhere by ``in_index``.

    Args:
        channels: Channels before the last convolution.
        classifier_kernel_size: Kernel size of the last convolution.
        upsampling: Factor by which the logits are enlarged, bilinearly with aligned corners.
        feature_strides: Stride of each map in pixels of the image; a `PyramidEncoderDecoder` sets it.
    """

    fixed_arguments = frozenset({"input_transform"})

    def __init__(
        self,
        channels: PositiveInt,
        *,
        classifier_kernel_size: KernelSize = 1,
        upsampling: PositiveInt = 1,
        feature_strides: Sequence[PositiveInt] | None = None,
        **kwargs: Unpack[LevelArguments],
    ) -> None:
        super().__init__(channels=channels, input_transform="multiple_select", **kwargs)
        if feature_strides is not None and len(feature_strides) != len(self.in_channels):
            message = f"{len(feature_strides)} strides for {len(self.in_channels)} feature maps"
            raise ConfigError(Problem(message, "feature_strides"))
        self.upsampling, self.feature_strides = upsampling, feature_strides and tuple(feature_strides)
        if classifier_kernel_size != 1:
            self.conv_seg = nn.Conv2d(channels, self.out_channels, classifier_kernel_size, padding=1)

    @classmethod
    def select_maps(cls, strides: Sequence[int]) -> list[int]:
        """Return the indices of the head's maps among those of a backbone with these strides, by default from 4 on.

        Raises:
            ConfigError: A map that the head needs is missing.
        """
        return [i for i, stride in enumerate(strides) if stride >= 4]

    def cls_seg(self, x: Tensor) -> Tensor:
        logits = super().cls_seg(x)
        return logits if self.upsampling == 1 else resize(logits, scale_factor=self.upsampling, align_corners=True)


def halving_maps(strides: Sequence[int]) -> list[int]:
    """Return the indices of the maps of stride 2 and more, each of which has half the size of the one before.

    Raises:
        ConfigError: One is missing, or two have the same stride.
    """
    chosen = [i for i, stride in enumerate(strides) if stride > 1]
    found = [strides[i] for i in chosen]
    if len(found) < 2 or any(2 * fine != coarse for fine, coarse in itertools.pairwise(found)):
        message = f"needs maps that halve in size from one to the next, the backbone's have strides {list(strides)}"
        raise ConfigError(Problem(message, "backbone", hint="choose them by its out_indices, or set a neck"))
    return chosen
