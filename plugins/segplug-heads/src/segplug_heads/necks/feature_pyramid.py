"""From the maps of a plain vision transformer, all at one stride, to a pyramid.

As in BEiT: BERT Pre-Training of Image Transformers, Bao et al., 2021 (https://arxiv.org/abs/2106.08254).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features, Neck
from segkernel.nn import LayerConfig, build_norm

NAMES = {4: "upsample_4x", 2: "upsample_2x", 1: "identity", 0.5: "downsample_2x", 0.25: "downsample_4x"}
"""What scales by a factor."""


class Feature2Pyramid(Neck):
    """Maps (N, embed_dim, h, w) to as many maps, map i (N, embed_dim, h * rescales[i], w * rescales[i]).

    Enlarging is learnt, shrinking takes the maximum.

    Args:
        embed_dim: Channels of all maps.
        rescales: The factor of each map: 4, 2, 1, 0.5 or 0.25.
        norm_cfg: Kind of norm between the two halves of the factor 4.

    Raises:
        ConfigError: A factor is another one.
    """

    conformance: ClassVar = {"embed_dim": 8}
    conformance_inputs: ClassVar = {"features": [(8, 16)] * 4}

    def __init__(
        self,
        embed_dim: int,
        rescales: Sequence[float] = (4, 2, 1, 0.5),
        norm_cfg: LayerConfig = {"type": "SyncBN", "requires_grad": True},  # noqa: B006  never changed
    ) -> None:
        super().__init__()
        for factor in rescales:
            if factor not in NAMES:
                raise ConfigError(Problem(f"{factor} is not one of {', '.join(map(str, NAMES))}", "rescales"))
            self.add_module(NAMES[factor], _rescale(factor, embed_dim, norm_cfg))
        self.rescales = tuple(rescales)

    def forward(self, features: Features) -> tuple[Tensor, ...]:
        if len(features) != len(self.rescales):
            raise ConfigError(Problem(f"{len(features)} feature maps for {len(self.rescales)} factors", "rescales"))
        return tuple(getattr(self, NAMES[factor])(x) for factor, x in zip(self.rescales, features))


def _rescale(factor: float, embed_dim: int, norm_cfg: LayerConfig) -> nn.Module:
    if factor == 1:
        return nn.Identity()
    if factor < 1:
        return nn.MaxPool2d(round(1 / factor))
    double = nn.Sequential(nn.ConvTranspose2d(embed_dim, embed_dim, 2, stride=2))
    if factor == 4:
        norm = build_norm(norm_cfg, embed_dim)[1]
        double.extend([norm, nn.GELU(), nn.ConvTranspose2d(embed_dim, embed_dim, 2, stride=2)])
    return double
