"""Light Hamburger, the head of SegNeXt: global context as a low-rank reconstruction by matrix decomposition.

Is Attention Better Than Matrix Decomposition?, Geng et al., 2021 (https://arxiv.org/abs/2109.04553); SegNeXt:
Rethinking Convolutional Attention Design for Semantic Segmentation, Guo et al., 2022
(https://arxiv.org/abs/2209.08575).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import TypedDict, Unpack

from segkernel.annotations import PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features
from segkernel.nn import ConvModule, DecodeHead, LayerConfig, MultiLevelHeadArguments, resize

STORED_BASES = 16
"""Initial bases that are stored for evaluation: one for each image of a batch, repeating from the 17th image on."""


class HamArguments(TypedDict, total=False):
    """The arguments of `NMF2D`."""

    MD_S: int
    MD_R: int
    train_steps: int
    eval_steps: int
    inv_t: float
    rand_init: bool


class NMF2D(nn.Module):
    """Non-negative matrix factorisation by multiplicative updates: (N, C, H, W) >= 0 -> its low-rank reconstruction.

    The updates start from random bases, drawn for each image in training. In eval mode they are fixed, so that
    predictions are reproducible: those that MMSegmentation, which draws in eval mode as well, would draw after
    ``torch.manual_seed(0)``.

    Args:
        channels: C.
        MD_S: Groups that the channels are divided into, each factorised alone.
        MD_R: Bases of each group, the rank of the reconstruction.
        train_steps: Updates in training; 6 is the authors' default.
        eval_steps: Updates in eval mode; the authors' default of 7 is one more than in training.
        inv_t: Not used, accepted for existing configs: the inverse temperature of this factorisation is 1.
        rand_init: Draw initial bases for each image; otherwise all share one, which is part of the state dict.

    Raises:
        ConfigError: The channels are not divisible by ``MD_S``.
    """

    bases: Tensor

    def __init__(
        self,
        channels: int,
        MD_S: int = 1,
        MD_R: int = 64,
        train_steps: int = 6,
        eval_steps: int = 7,
        inv_t: float = 100,
        rand_init: bool = True,
    ) -> None:
        super().__init__()
        if channels % MD_S:
            raise ConfigError(Problem(f"{channels} channels are not divisible by {MD_S} groups", "ham_kwargs.MD_S"))
        self.groups, self.rand_init = MD_S, rand_init
        self.train_steps, self.eval_steps = train_steps, eval_steps
        shape = (STORED_BASES if rand_init else 1, MD_S, channels // MD_S, MD_R)
        drawn = torch.rand(shape, generator=torch.Generator("cpu").manual_seed(0), device="cpu")
        # A copy on the default device, which is `meta` when a model is built without memory.
        self.register_buffer("bases", F.normalize(drawn, dim=2).to(torch.empty(0).device), persistent=not rand_init)

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.unflatten(1, (self.groups, -1)).flatten(3)
        bases = self._initial_bases(pixels)
        # The authors start from a soft assignment of pixels to bases: multiplicative updates need positive factors.
        coefficients = (pixels.mT @ bases).softmax(-1)
        for _ in range(self.train_steps if self.training else self.eval_steps):
            coefficients = _multiplicative_update(coefficients, pixels.mT @ bases, bases.mT @ bases)
            bases = _multiplicative_update(bases, pixels @ coefficients, coefficients.mT @ coefficients)
        # Fits the coefficients to the final bases. In Hamburger only this update has a gradient, the one-step gradient;
        # SegNeXt keeps the update but differentiates the loop as well.
        coefficients = _multiplicative_update(coefficients, pixels.mT @ bases, bases.mT @ bases)
        return (bases @ coefficients.mT).view_as(x)

    def _initial_bases(self, pixels: Tensor) -> Tensor:
        """Return (N, groups, C / groups, MD_R) for ``pixels`` (N, groups, C / groups, H * W)."""
        if self.training and self.rand_init:
            shape = (pixels.shape[0], *self.bases.shape[1:])
            return F.normalize(torch.rand(shape, dtype=pixels.dtype, device=pixels.device), dim=2)
        image = torch.arange(pixels.shape[0], device=pixels.device) % self.bases.shape[0]
        return self.bases[image].to(pixels.dtype)


class Hamburger(nn.Module):
    """`NMF2D`, the ham, between two 1x1 convolutions, the bread, with a residual connection: (N, C, H, W) -> the same.

    Args:
        channels: C.
        norm_cfg: Norm of the second convolution; None for no norm.
        **kwargs: Arguments of `NMF2D`.
    """

    def __init__(self, channels: int, norm_cfg: LayerConfig | None, **kwargs: Unpack[HamArguments]) -> None:
        super().__init__()
        self.ham_in = ConvModule(channels, channels, 1, act_cfg=None)
        self.ham = NMF2D(channels, **kwargs)
        self.ham_out = ConvModule(channels, channels, 1, norm_cfg=norm_cfg, act_cfg=None)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.ham_out(self.ham(F.relu(self.ham_in(x)))))


class LightHamHead(DecodeHead):
    """Feature maps, finest first -> logits (N, out_channels, h, w) at the size of the first.

    Args:
        ham_channels: Channels of the factorised map.
        ham_kwargs: Arguments of `NMF2D`.
    """

    fixed_arguments = frozenset({"input_transform"})
    conformance: ClassVar = {
        "in_channels": [8, 16], "in_index": [0, 1], "channels": 8, "ham_channels": 8, "num_classes": 4,
        "ham_kwargs": {"MD_R": 4},
    }  # fmt: skip

    def __init__(
        self,
        ham_channels: PositiveInt = 512,
        ham_kwargs: HamArguments | None = None,
        **kwargs: Unpack[MultiLevelHeadArguments],
    ) -> None:
        super().__init__(input_transform="multiple_select", **kwargs)
        self.squeeze = ConvModule(sum(self.in_channels), ham_channels, 1, **self.layer_cfgs)
        self.hamburger = Hamburger(ham_channels, self.norm_cfg, **(ham_kwargs or {}))
        self.align = ConvModule(ham_channels, self.channels, 1, **self.layer_cfgs)

    def forward_feature(self, features: Features) -> Tensor:
        maps = self.select(features)
        size = maps[0].shape[2:]
        x = torch.cat([resize(x, size, align_corners=self.align_corners) for x in maps], 1)
        return self.align(self.hamburger(self.squeeze(x)))


def _multiplicative_update(factor: Tensor, product: Tensor, gram: Tensor) -> Tensor:
    """Return ``factor`` after a multiplicative update (Lee and Seung, 1999).

    Args:
        factor: One factor of the matrix.
        product: The matrix times the other factor.
        gram: The Gram matrix of the other factor.
    """
    # The authors' epsilon; another one changes the predictions of published weights.
    return factor * product / (factor @ gram + 1e-6)
