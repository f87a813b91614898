"""A feature pyramid from the maps of a plain vision transformer, which have all one stride.

As in BEiT: BERT Pre-Training of Image Transformers, Bao et al., 2021 (https://arxiv.org/abs/2106.08254).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from segkernel.annotations import Positive, PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features, Neck
from segkernel.nn import LayerConfig, build_norm

RESCALE_NAMES = {4: "upsample_4x", 2: "upsample_2x", 1: "identity", 0.5: "downsample_2x", 0.25: "downsample_4x"}
"""Name of the module, and so in the state dict, that rescales by each factor."""


class Feature2Pyramid(Neck):
    """Maps (N, embed_dim, h, w) to as many maps (N, embed_dim, h * rescales[i], w * rescales[i]).

    Transposed convolutions upsample, max pooling downsamples.

    Args:
        embed_dim: Channels of all maps.
        rescales: Factor of each map: 4, 2, 1, 0.5 or 0.25.
        norm_cfg: Norm between the two transposed convolutions of the factor 4.

    Raises:
        ConfigError: A factor is not one of these; in ``forward``, there is not one map for each factor.
    """

    conformance: ClassVar = {"embed_dim": 8}
    conformance_inputs: ClassVar = {"features": [(8, 16)] * 4}

    def __init__(
        self,
        embed_dim: PositiveInt,
        rescales: Sequence[Positive] = (4, 2, 1, 0.5),
        norm_cfg: LayerConfig = {"type": "SyncBN", "requires_grad": True},  # noqa: B006  never changed
    ) -> None:
        super().__init__()
        for factor in rescales:
            if factor not in RESCALE_NAMES:
                raise ConfigError(Problem(f"{factor} is not one of {', '.join(map(str, RESCALE_NAMES))}", "rescales"))
            self.add_module(RESCALE_NAMES[factor], _rescale(factor, embed_dim, norm_cfg))
        self.rescales = tuple(rescales)

    def forward(self, features: Features) -> tuple[Tensor, ...]:
        if len(features) != len(self.rescales):
            raise ConfigError(Problem(f"{len(features)} feature maps for {len(self.rescales)} factors", "rescales"))
        rescale = (self.get_submodule(RESCALE_NAMES[factor]) for factor in self.rescales)
        return tuple(module(x) for module, x in zip(rescale, features, strict=True))


def _rescale(factor: float, embed_dim: int, norm_cfg: LayerConfig) -> nn.Module:
    if factor == 1:
        return nn.Identity()
    if factor < 1:
        return nn.MaxPool2d(round(1 / factor))
    # Indices within are state-dict keys: BEiT's fpn1 is deconvolution, norm, GELU, deconvolution, its fpn2 one alone.
    upsample = nn.Sequential(nn.ConvTranspose2d(embed_dim, embed_dim, 2, stride=2))
    if factor == 4:
        norm = build_norm(norm_cfg, embed_dim)[1]
        upsample.extend([norm, nn.GELU(), nn.ConvTranspose2d(embed_dim, embed_dim, 2, stride=2)])
    return upsample
