"""DINOv3 ViT: vision transformers trained without labels, with rotary positions and register tokens.

    backbone = DINOv3("small", out_indices=(2, 5, 8, 11))
    features = backbone(torch.rand(2, 3, 512, 512))  # four maps of 384 channels at stride 16

DINOv3, Siméoni et al., 2025 (https://arxiv.org/abs/2508.10104). The family's convolutional networks are
`segplug_backbones.ConvNeXt`. The weights are under the DINOv3 License, which is not an open-source licence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from segkernel.annotations import NonNegative, NonNegativeInt, Positive, PositiveInt, Probability
from segkernel.errors import ConfigError, Problem
from segkernel.nn import build_norm, linear_drop_path_rates
from segplug_backbones.adapters import Adapter
from segplug_backbones.plain_vit import MLP, Attention, Block, Grid, PlainViT, PlainViTArch, SwiGLU, read_arch

ARCHS: dict[str, PlainViTArch] = {
    "small": {"embed_dims": 384, "num_layers": 12, "num_heads": 6, "feedforward_channels": 1536},
    "small_plus": {
        "embed_dims": 384, "num_layers": 12, "num_heads": 6, "feedforward_channels": 1536, "swiglu": True
    },
    "base": {"embed_dims": 768, "num_layers": 12, "num_heads": 12, "feedforward_channels": 3072},
    "large": {"embed_dims": 1024, "num_layers": 24, "num_heads": 16, "feedforward_channels": 4096},
    "huge_plus": {
        "embed_dims": 1280, "num_layers": 32, "num_heads": 20, "feedforward_channels": 5120, "swiglu": True
    },
    "7b": {"embed_dims": 4096, "num_layers": 40, "num_heads": 32, "feedforward_channels": 8192, "swiglu": True},
}  # fmt: skip
"""The ViTs of the paper, tables 2 and 3."""
Arch = Literal["small", "small_plus", "base", "large", "huge_plus", "7b"]


class DINOv3(PlainViT):
    """Images (N, in_channels, H, W) to one map for each of ``out_indices``, (N, embed_dims, ~H / 16, ~W / 16).

    Any image size will do: incomplete patches are padded with zeros, rotary positions go from -1 to 1 over any grid.

    Args:
        arch: A name, or ``{embed_dims, num_layers, num_heads, feedforward_channels, swiglu}``.
        patch_size: Side of a patch in pixels, the stride of all maps.
        in_channels: Channels of the image.
        num_register_tokens: Register tokens, called storage tokens by the authors.
        out_indices: The blocks whose outputs are returned, counted from 0; -1 is the last.
        final_norm: Apply the layer norm after the last block to every output.
        output_cls_token: Return pairs of a map and the class token (N, embed_dims) instead of maps.
        qv_bias: Whether queries and values have a bias; None is as published, in all but ``7b``. Keys have none.
        rope_theta: Base of the periods of rotary positions.
        drop_path_rate: Drop path rate of the last block; it rises linearly from 0 at the first one.
        init_values: Initial layer scale.
        norm_cfg: Type of the norms and its arguments.
        act_cfg: Type of the activations of the feed-forward networks without SwiGLU.
        frozen_stages: 0 freezes nothing, n the embeddings and the first n blocks; all blocks, the norm as well.
        with_cp: Activation checkpointing: less memory, a second forward pass in training.
        pretrained: Weights to load: a file, an address, or a known name such as ``torchvision://resnet50``.
        adapt: Parameters to add that train in place of the backbone's own, such as ``{type: LoRA, rank: 8}``.

    Raises:
        ConfigError: When an argument is out of range or does not fit the others.
    """

    conformance: ClassVar = (
        {"arch": {"embed_dims": 16, "num_layers": 3, "num_heads": 2, "feedforward_channels": 16},
         "out_indices": (0, 2)},
        {"arch": {"embed_dims": 16, "num_layers": 2, "num_heads": 2, "feedforward_channels": 16, "swiglu": True},
         "num_register_tokens": 0, "qv_bias": False, "final_norm": False, "patch_size": 8},
    )  # fmt: skip

    def __init__(
        self,
        arch: Arch | PlainViTArch = "base",
        patch_size: PositiveInt = 16,
        in_channels: PositiveInt = 3,
        num_register_tokens: NonNegativeInt = 4,
        out_indices: int | Sequence[int] = -1,
        final_norm: bool = True,
        output_cls_token: bool = False,
        qv_bias: bool | None = None,
        rope_theta: Positive = 100.0,
        drop_path_rate: Probability = 0.0,
        init_values: NonNegative = 1.0,
        norm_cfg: Mapping[str, Any] = {"type": "LN", "eps": 1e-5},
        act_cfg: Mapping[str, Any] = {"type": "GELU"},
        frozen_stages: int = 0,
        with_cp: bool = False,
        pretrained: str | None = None,
        adapt: Adapter | None = None,
    ) -> None:
        chosen = read_arch(arch, ARCHS)
        width, heads, hidden = chosen["embed_dims"], chosen["num_heads"], chosen["feedforward_channels"]
        if width % (4 * heads):
            raise ConfigError(Problem(f"{width} channels in {heads} heads: a head needs a multiple of 4", "arch"))
        biased = arch != "7b" if qv_bias is None else qv_bias
        super().__init__(
            [
                Block(
                    width,
                    Attention(width, heads, "qv" if biased else "none"),
                    SwiGLU(width, hidden) if chosen.get("swiglu") else MLP(width, hidden, act_cfg),
                    norm_cfg=norm_cfg,
                    init_values=init_values,
                    drop_path_rate=rate,
                    with_cp=with_cp,
                )
                for rate in linear_drop_path_rates(drop_path_rate, chosen["num_layers"])
            ],
            embed_dims=width,
            patch_size=patch_size,
            in_channels=in_channels,
            num_register_tokens=num_register_tokens,
            grid=None,
            antialias=False,
            offset=0.0,
            norm=build_norm(norm_cfg, width)[1] if final_norm else None,
            out_indices=out_indices,
            frozen_stages=frozen_stages,
            output_cls_token=output_cls_token,
            pretrained=pretrained,
            adapt=adapt,
        )
        self.head_dims, self.rope_theta = width // heads, rope_theta

    def rotary(self, size: Grid) -> Tensor:
        """Return cosine and sine of the angles of each patch, (2, h * w, D) for D channels of a head.

        A quarter of the channels has the angle 2 pi y / period, the next x, then both again: `rotate` turns the halves.
        """
        device, quarter = self.cls_token.device, self.head_dims // 4
        frequencies = self.rope_theta ** -(torch.arange(quarter, device=device) / quarter)
        y, x = ((torch.arange(side, device=device) + 0.5) * (2 / side) - 1 for side in size)
        points = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1).flatten(0, 1)
        angles = (2 * math.pi * points.unsqueeze(-1) * frequencies).flatten(1).tile(2)
        return torch.stack([angles.cos(), angles.sin()])
