"""Light Hamburger, the head of SegNeXt: context as a matrix decomposition, which removes what is not of low rank.

Geng et al., Is Attention Better Than Matrix Decomposition?, 2021 (https://arxiv.org/abs/2109.04553); Guo et al.,
SegNeXt: Rethinking Convolutional Attention Design for Semantic Segmentation, 2022 (https://arxiv.org/abs/2209.08575).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import TypedDict, Unpack

from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features
from segkernel.nn import ConvModule, DecodeHead, DecodeHeadArguments, LayerConfig, resize

TABLE = 16
"""Images of a batch that begin with bases of their own in eval mode; the next one begins as the first does."""


class HamArguments(TypedDict, total=False):
    """The arguments of `NMF2D`."""

    MD_S: int
    MD_R: int
    train_steps: int
    eval_steps: int
    inv_t: float
    rand_init: bool


class NMF2D(nn.Module):
    """The best approximation of a map by few bases, found by multiplicative updates: (N, C, H, W) >= 0 -> the same.

    The updates begin with random bases. In training they are drawn anew for every image. In eval mode they are always
    the same, so that a model predicts the same twice: those that ``torch.manual_seed(0)`` gives MMSegmentation, which
    draws in eval mode, too.

    Args:
        channels: C.
        MD_S: Parts into which the channels are cut.
        MD_R: Bases of each part.
        train_steps: Updates in training.
        eval_steps: Updates in eval mode.
        inv_t: Kept for configs that have it; the inverse temperature of this decomposition is 1.
        rand_init: Draw the bases of each image; else all begin with one set of them, which is part of the state.

    Raises:
        ConfigError: The channels cannot be cut.
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
            raise ConfigError(Problem(f"{channels} channels cannot be cut into {MD_S} parts", "ham_kwargs.MD_S"))
        self.parts, self.rand_init = MD_S, rand_init
        self.train_steps, self.eval_steps = train_steps, eval_steps
        shape = (TABLE if rand_init else 1, MD_S, channels // MD_S, MD_R)
        drawn = torch.rand(shape, generator=torch.Generator("cpu").manual_seed(0), device="cpu")
        # A copy on the default device, which is `meta` when a model is built without memory.
        self.register_buffer("bases", F.normalize(drawn, dim=2).to(torch.empty(0).device), persistent=not rand_init)

    def forward(self, x: Tensor) -> Tensor:
        parts = x.unflatten(1, (self.parts, -1)).flatten(3)
        bases = self._first_bases(parts)
        shares = (parts.mT @ bases).softmax(-1)
        for _ in range(self.train_steps if self.training else self.eval_steps):
            shares = _updated(shares, parts.mT @ bases, bases.mT @ bases)
            bases = _updated(bases, parts @ shares, shares.mT @ shares)
        shares = _updated(shares, parts.mT @ bases, bases.mT @ bases)
        return (bases @ shares.mT).view_as(x)

    def _first_bases(self, parts: Tensor) -> Tensor:
        """Return (N, parts, C / parts, bases) for (N, parts, C / parts, H * W)."""
        if self.training and self.rand_init:
            shape = (parts.shape[0], *self.bases.shape[1:])
            return F.normalize(torch.rand(shape, dtype=parts.dtype, device=parts.device), dim=2)
        image = torch.arange(parts.shape[0], device=parts.device) % self.bases.shape[0]
        return self.bases[image].to(parts.dtype)


class Hamburger(nn.Module):
    """`NMF2D` between two 1x1 convolutions, plus the input: (N, C, H, W) -> the same."""

    def __init__(self, channels: int, norm_cfg: LayerConfig | None, **kwargs: Unpack[HamArguments]) -> None:
        super().__init__()
        self.ham_in = ConvModule(channels, channels, 1, act_cfg=None)
        self.ham = NMF2D(channels, **kwargs)
        self.ham_out = ConvModule(channels, channels, 1, norm_cfg=norm_cfg, act_cfg=None)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.ham_out(self.ham(F.relu(self.ham_in(x)))))


class LightHamHead(DecodeHead):
    """Several feature maps -> (N, out_channels, h, w) at the size of the first.

    Args:
        ham_channels: Channels of the decomposed map.
        ham_kwargs: Arguments of `NMF2D`.
    """

    fixed_arguments = frozenset({"input_transform"})
    conformance: ClassVar = {
        "in_channels": [8, 16], "in_index": [0, 1], "channels": 8, "ham_channels": 8, "num_classes": 4,
        "ham_kwargs": {"MD_R": 4},
    }  # fmt: skip

    def __init__(
        self, ham_channels: int = 512, ham_kwargs: HamArguments | None = None, **kwargs: Unpack[DecodeHeadArguments]
    ) -> None:
        super().__init__(input_transform="multiple_select", **kwargs)
        layers = {"conv_cfg": self.conv_cfg, "norm_cfg": self.norm_cfg, "act_cfg": self.act_cfg}
        self.squeeze = ConvModule(sum(self.in_channels), ham_channels, 1, **layers)
        self.hamburger = Hamburger(ham_channels, self.norm_cfg, **(ham_kwargs or {}))
        self.align = ConvModule(ham_channels, self.channels, 1, **layers)

    def forward_feature(self, features: Features) -> Tensor:
        maps = self.select(features)
        size = maps[0].shape[2:]
        joined = torch.cat([resize(x, size, align_corners=self.align_corners) for x in maps], 1)
        return self.align(self.hamburger(self.squeeze(joined)))


def _updated(factor: Tensor, product: Tensor, other: Tensor) -> Tensor:
    """Return the factor after a multiplicative update (Lee and Seung, 1999).

    ``product`` is the matrix times the other factor, ``other`` that factor's Gram matrix.
    """
    return factor * product / (factor @ other + 1e-6)
