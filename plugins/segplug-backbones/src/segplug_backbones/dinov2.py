"""DINOv2: vision transformers trained without labels, whose features serve dense prediction as they are.

    backbone = DINOv2("small", num_register_tokens=4, out_indices=(2, 5, 8, 11))
    features = backbone(torch.rand(2, 3, 518, 518))  # four maps of 384 channels at stride 14

DINOv2: Learning Robust Visual Features without Supervision, Oquab et al., 2023 (https://arxiv.org/abs/2304.07193); with
``num_register_tokens``: Vision Transformers Need Registers, Darcet et al., 2024 (https://arxiv.org/abs/2309.16588).
Code and weights of the authors: Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from segkernel.annotations import NonNegative, NonNegativeInt, PositiveInt, Probability
from segkernel.errors import ConfigError, Problem
from segkernel.nn import build_norm, linear_drop_path_rates
from segplug_backbones.adapters import Adapter
from segplug_backbones.plain_vit import MLP, Attention, Block, PlainViT, PlainViTArch, SwiGLU, read_arch
from segplug_backbones.vit import patch_grid

ARCHS: dict[str, PlainViTArch] = {
    "small": {"embed_dims": 384, "num_layers": 12, "num_heads": 6, "feedforward_channels": 1536},
    "base": {"embed_dims": 768, "num_layers": 12, "num_heads": 12, "feedforward_channels": 3072},
    "large": {"embed_dims": 1024, "num_layers": 24, "num_heads": 16, "feedforward_channels": 4096},
    "giant": {
        "embed_dims": 1536, "num_layers": 40, "num_heads": 24, "feedforward_channels": 4096, "swiglu": True
    },
}  # fmt: skip
"""ViT-S, ViT-B, ViT-L and ViT-g of the paper, table 17."""
Arch = Literal["small", "base", "large", "giant"]


class DINOv2(PlainViT):
    """Images (N, in_channels, H, W) to one map for each of ``out_indices``, (N, embed_dims, ~H / 14, ~W / 14).

    Any image size will do: incomplete patches are padded with zeros, position embeddings are interpolated bicubically.
    Implementations differ in how, which ``interpolate_antialias`` and ``interpolate_offset`` follow: without registers,
    transformers takes False and 0.0, timm True and 0.0, the authors False and 0.1; with registers, all take True and 0.

    Args:
        arch: A name, or ``{embed_dims, num_layers, num_heads, feedforward_channels, swiglu}``.
        img_size: Side, or (height, width) in pixels, of the images that the position embeddings are for.
        patch_size: Side of a patch in pixels, the stride of all maps.
        in_channels: Channels of the image.
        num_register_tokens: Register tokens: 4 in the published models that have any.
        out_indices: The blocks whose outputs are returned, counted from 0; -1 is the last.
        final_norm: Apply the layer norm after the last block to every output.
        output_cls_token: Return pairs of a map and the class token (N, embed_dims) instead of maps.
        drop_path_rate: Drop path rate of the last block; it rises linearly from 0 at the first one.
        init_values: Initial layer scale.
        norm_cfg: Type of the norms and its arguments.
        act_cfg: Type of the activations of the feed-forward networks without SwiGLU.
        interpolate_antialias: Interpolate position embeddings with antialiasing; None does with register tokens, as
            transformers.
        interpolate_offset: Added to the number of patches that position embeddings are interpolated to.
        frozen_stages: 0 freezes nothing, n the embeddings and the first n blocks; all blocks, the norm as well.
        with_cp: Activation checkpointing: less memory, a second forward pass in training.
        pretrained: Weights to load: a file, an address, or a known name such as ``torchvision://resnet50``.
        adapt: Parameters to add that train in place of the backbone's own, such as ``{type: LoRA, rank: 8}``.

    Raises:
        ConfigError: When an argument is out of range or does not fit the others.
    """

    conformance: ClassVar = (
        {"arch": {"embed_dims": 8, "num_layers": 3, "num_heads": 2, "feedforward_channels": 16}, "img_size": 56,
         "out_indices": (0, 2)},
        {"arch": {"embed_dims": 8, "num_layers": 2, "num_heads": 2, "feedforward_channels": 16, "swiglu": True},
         "img_size": 56, "num_register_tokens": 2, "interpolate_antialias": False, "interpolate_offset": 0.1},
    )  # fmt: skip

    def __init__(
        self,
        arch: Arch | PlainViTArch = "base",
        img_size: PositiveInt | tuple[PositiveInt, PositiveInt] = 518,
        patch_size: PositiveInt = 14,
        in_channels: PositiveInt = 3,
        num_register_tokens: NonNegativeInt = 0,
        out_indices: int | Sequence[int] = -1,
        final_norm: bool = True,
        output_cls_token: bool = False,
        drop_path_rate: Probability = 0.0,
        init_values: NonNegative = 1.0,
        norm_cfg: Mapping[str, Any] = {"type": "LN", "eps": 1e-6},
        act_cfg: Mapping[str, Any] = {"type": "GELU"},
        interpolate_antialias: bool | None = None,
        interpolate_offset: NonNegative = 0.0,
        frozen_stages: int = 0,
        with_cp: bool = False,
        pretrained: str | None = None,
        adapt: Adapter | None = None,
    ) -> None:
        chosen = read_arch(arch, ARCHS)
        antialias = num_register_tokens > 0 if interpolate_antialias is None else interpolate_antialias
        if antialias and interpolate_offset:
            raise ConfigError(Problem("goes without antialiasing: interpolate_antialias: false", "interpolate_offset"))
        width, hidden = chosen["embed_dims"], chosen["feedforward_channels"]
        super().__init__(
            [
                Block(
                    width,
                    Attention(width, chosen["num_heads"]),
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
            grid=patch_grid(img_size, patch_size),
            antialias=antialias,
            offset=interpolate_offset,
            norm=build_norm(norm_cfg, width)[1] if final_norm else None,
            out_indices=out_indices,
            frozen_stages=frozen_stages,
            output_cls_token=output_cls_token,
            pretrained=pretrained,
            adapt=adapt,
        )
