"""EVA-02: vision transformers with SwiGLU, sub-LN and rotary positions, trained to predict CLIP's features.

    backbone = EVA02("base", img_size=448, out_indices=(3, 5, 7, 11))
    features = backbone(torch.rand(2, 3, 448, 448))  # four maps of 768 channels at stride 14

EVA-02: A Visual Representation for Neon Genesis, Fang et al., 2023 (https://arxiv.org/abs/2303.11331). Code and weights
of the authors: MIT.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import NotRequired, TypedDict

from segkernel.annotations import PositiveInt, Probability
from segkernel.errors import ConfigError, Problem
from segkernel.nn import build_norm, linear_drop_path_rates
from segplug_backbones.adapters import Adapter
from segplug_backbones.plain_vit import Attention, Block, Grid, PlainViT, SwiGLU, read_arch
from segplug_backbones.vit import patch_grid


class EVA02Arch(TypedDict):
    """A custom architecture.

    Channels of a token, blocks, attention heads, width of the feed-forward networks, and whether they and the attention
    have a norm before their last layer (sub-LN).
    """

    embed_dims: PositiveInt
    num_layers: PositiveInt
    num_heads: PositiveInt
    feedforward_channels: PositiveInt
    mlp_norm: NotRequired[bool]
    attn_norm: NotRequired[bool]


ARCHS: dict[str, EVA02Arch] = {
    "tiny": {"embed_dims": 192, "num_layers": 12, "num_heads": 3, "feedforward_channels": 512},
    "small": {"embed_dims": 384, "num_layers": 12, "num_heads": 6, "feedforward_channels": 1024},
    "base": {
        "embed_dims": 768, "num_layers": 12, "num_heads": 12, "feedforward_channels": 2048, "mlp_norm": True
    },
    "large": {
        "embed_dims": 1024, "num_layers": 24, "num_heads": 16, "feedforward_channels": 2730, "mlp_norm": True
    },
    "clip_base": {
        "embed_dims": 768, "num_layers": 12, "num_heads": 12, "feedforward_channels": 2048, "mlp_norm": True,
        "attn_norm": True,
    },
    "clip_large": {
        "embed_dims": 1024, "num_layers": 24, "num_heads": 16, "feedforward_channels": 2730, "mlp_norm": True,
        "attn_norm": True,
    },
}  # fmt: skip
"""The models of the paper, and the image encoders of EVA-CLIP, whose base model has patches of 16 pixels."""
Arch = Literal["tiny", "small", "base", "large", "clip_base", "clip_large"]


class EVA02(PlainViT):
    """Images (N, in_channels, H, W) to one map for each of ``out_indices``, (N, embed_dims, ~H / patch, ~W / patch).

    Any image size will do: incomplete patches are padded with zeros, position embeddings are interpolated bicubically,
    and rotary positions are those of a grid of ``rope_grid`` patches a side.

    Args:
        arch: A name, or ``{embed_dims, num_layers, num_heads, feedforward_channels, mlp_norm, attn_norm}``.
        img_size: Side, or (height, width) in pixels, of the images that the position embeddings are for.
        patch_size: Side of a patch in pixels, the stride of all maps; ``clip_base`` was trained with 16.
        in_channels: Channels of the image.
        rope_grid: Patches a side of pre-training, to which rotary positions are scaled.
        out_indices: The blocks whose outputs are returned, counted from 0; -1 is the last.
        final_norm: Apply the layer norm after the last block to every output; the authors' dense models do not.
        output_cls_token: Return pairs of a map and the class token (N, embed_dims) instead of maps.
        drop_path_rate: Drop path rate of the last block; it rises linearly from 0 at the first one.
        norm_cfg: Type of the norms and its arguments.
        interpolate_antialias: Interpolate position embeddings with antialiasing, as timm; the authors do not.
        frozen_stages: 0 freezes nothing, n the embeddings and the first n blocks; all blocks, the norm as well.
        with_cp: Activation checkpointing: less memory, a second forward pass in training.
        pretrained: Weights to load: a file, an address, or a known name such as ``torchvision://resnet50``.
        adapt: Parameters to add that train in place of the backbone's own, such as ``{type: LoRA, rank: 8}``.

    Raises:
        ConfigError: When an argument is out of range or does not fit the others.
    """

    conformance: ClassVar = (
        {"arch": {"embed_dims": 16, "num_layers": 3, "num_heads": 2, "feedforward_channels": 16}, "img_size": 56,
         "out_indices": (0, 2)},
        {"arch": {"embed_dims": 16, "num_layers": 2, "num_heads": 2, "feedforward_channels": 16, "mlp_norm": True,
                  "attn_norm": True}, "img_size": 64, "patch_size": 8, "final_norm": True},
    )  # fmt: skip

    def __init__(
        self,
        arch: Arch | EVA02Arch = "base",
        img_size: PositiveInt | tuple[PositiveInt, PositiveInt] = 448,
        patch_size: PositiveInt = 14,
        in_channels: PositiveInt = 3,
        rope_grid: PositiveInt = 16,
        out_indices: int | Sequence[int] = -1,
        final_norm: bool = False,
        output_cls_token: bool = False,
        drop_path_rate: Probability = 0.0,
        norm_cfg: Mapping[str, Any] = {"type": "LN", "eps": 1e-6},
        interpolate_antialias: bool = False,
        frozen_stages: int = 0,
        with_cp: bool = False,
        pretrained: str | None = None,
        adapt: Adapter | None = None,
    ) -> None:
        chosen: EVA02Arch = read_arch(arch, ARCHS)
        width, heads = chosen["embed_dims"], chosen["num_heads"]
        if width % (4 * heads):
            raise ConfigError(Problem(f"{width} channels in {heads} heads: a head needs a multiple of 4", "arch"))
        attn_norm_cfg = norm_cfg if chosen.get("attn_norm") else None
        mlp_norm_cfg = norm_cfg if chosen.get("mlp_norm") else None
        super().__init__(
            [
                Block(
                    width,
                    Attention(width, heads, "qv", rotate_pairs=True, inner_norm_cfg=attn_norm_cfg),
                    SwiGLU(width, chosen["feedforward_channels"], mlp_norm_cfg),
                    norm_cfg=norm_cfg,
                    init_values=None,
                    drop_path_rate=rate,
                    with_cp=with_cp,
                )
                for rate in linear_drop_path_rates(drop_path_rate, chosen["num_layers"])
            ],
            embed_dims=width,
            patch_size=patch_size,
            in_channels=in_channels,
            num_register_tokens=0,
            grid=patch_grid(img_size, patch_size),
            antialias=interpolate_antialias,
            offset=0.0,
            norm=build_norm(norm_cfg, width)[1] if final_norm else None,
            out_indices=out_indices,
            frozen_stages=frozen_stages,
            output_cls_token=output_cls_token,
            pretrained=pretrained,
            adapt=adapt,
        )
        self.head_dims, self.rope_grid = width // heads, rope_grid

    def rotary(self, size: Grid) -> Tensor:
        """Return cosine and sine of the angles of each patch, (2, h * w, D) for D channels of a head.

        The first half of the channels has the angles of y, the second those of x; `rotate` turns neighbours.
        """
        device, quarter = self.cls_token.device, self.head_dims // 4
        frequencies = 10000 ** -(torch.arange(quarter, device=device) / quarter)
        y, x = (torch.arange(side, device=device).float() * (self.rope_grid / side) for side in size)
        points = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1).flatten(0, 1)
        angles = (points.unsqueeze(-1) * frequencies).flatten(1).repeat_interleave(2, -1)
        return torch.stack([angles.cos(), angles.sin()])
