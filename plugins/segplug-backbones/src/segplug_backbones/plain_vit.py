"""`PlainViT`: what vision transformers at one scale share that came after ViT (DINOv2, DINOv3, EVA-02).

Their blocks have rotary positions, gated feed-forward networks (SwiGLU), layer scale and register tokens as options.
Published under the names of timm and of DINO's authors: ``blocks.0.attn.qkv``, ``ls1.gamma``, ``mlp.fc1``.

Rotary positions: RoFormer, Su et al., 2021 (https://arxiv.org/abs/2104.09864). SwiGLU: GLU Variants Improve
Transformer, Shazeer, 2020 (https://arxiv.org/abs/2002.05202). Layer scale: Going deeper with Image Transformers,
Touvron et al., 2021 (https://arxiv.org/abs/2103.17239). Registers: Vision Transformers Need Registers, Darcet et al.,
2024 (https://arxiv.org/abs/2309.16588).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import NotRequired, TypedDict

from segkernel.annotations import PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.nn import (
    AdaptivePadding,
    DropPath,
    FreezableBackbone,
    LayerConfig,
    build_activation,
    build_norm,
    check_frozen_stages,
    check_out_indices,
    checkpoint_block,
    nchw_to_nlc,
    nlc_to_nchw,
    trunc_normal_init,
)
from segplug_backbones.adapters import Adapter
from segplug_backbones.positions import interpolate_positions
from segplug_backbones.pretrained import Pretrained

Grid = tuple[int, int]
Biases = Literal["qkv", "qv", "none"]
SIZES = ("embed_dims", "num_layers", "num_heads", "feedforward_channels")


class PlainViTArch(TypedDict):
    """A custom architecture: channels of a token, blocks, attention heads, width of the feed-forward networks."""

    embed_dims: PositiveInt
    num_layers: PositiveInt
    num_heads: PositiveInt
    feedforward_channels: PositiveInt
    swiglu: NotRequired[bool]


class PatchEmbed(nn.Module):
    """Non-overlapping patches, incomplete ones padded with zeros: (N, in, H, W) -> (N, h * w, C), (h, w)."""

    def __init__(self, in_channels: int, embed_dims: int, patch_size: int) -> None:
        super().__init__()
        self.padding = AdaptivePadding(patch_size, patch_size, 1, "corner")
        self.proj = nn.Conv2d(in_channels, embed_dims, patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> tuple[Tensor, Grid]:
        x = self.proj(self.padding(images))
        return nchw_to_nlc(x), (x.shape[2], x.shape[3])

    def resize_weight(self, name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor | None:
        """Return the kernel of patches of another size, for which resized patches have the same tokens.

        FlexiViT: One Model for All Patch Sizes, Beyer et al., 2023 (https://arxiv.org/abs/2212.08013), section 3.4.
        """
        if name != "proj.weight" or value.ndim != 4 or value.shape[:2] != shape[:2]:
            return None
        pixels = torch.eye(value.shape[2:].numel(), device=value.device).view(-1, 1, *value.shape[2:])
        resized = F.interpolate(pixels, shape[2:], mode="bicubic", antialias=True).flatten(1)  # (old, new) pixels
        kernel = value.float().flatten(2) @ torch.linalg.pinv(resized).T
        return kernel.view(shape).to(value.dtype)


class Attention(nn.Module):
    """Self-attention, (N, L, C) -> the same shape, with rotary positions of the last tokens.

    Args:
        embed_dims: C.
        num_heads: Attention heads; must divide ``embed_dims``.
        biases: Which of queries, keys and values have a bias. A bias of keys alone has no effect without rotary
            positions, and is left out by BEiT and its successors.
        rotate_pairs: Rotary positions rotate channels 2i and 2i + 1 of a head, instead of i and i + D / 2.
        inner_norm_cfg: Norm of the attended values (sub-LN); None is no norm.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        biases: Biases = "qkv",
        rotate_pairs: bool = False,
        inner_norm_cfg: LayerConfig | None = None,
    ) -> None:
        super().__init__()
        if embed_dims % num_heads:
            raise ConfigError(Problem(f"{embed_dims} channels are not divisible by {num_heads} heads", "num_heads"))
        self.num_heads, self.rotate_pairs = num_heads, rotate_pairs
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=biases == "qkv")
        self.q_bias = nn.Parameter(torch.zeros(embed_dims)) if biases == "qv" else None
        self.v_bias = nn.Parameter(torch.zeros(embed_dims)) if biases == "qv" else None
        self.norm = None if inner_norm_cfg is None else build_norm(inner_norm_cfg, embed_dims)[1]
        self.proj = nn.Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor, rotary: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Return the attended tokens.

        Args:
            x: (N, L, C).
            rotary: Cosine and sine of the angles of the last P tokens, (2, P, C / heads).
            mask: As ``attn_mask`` of ``F.scaled_dot_product_attention``, (L, L) or (N, heads or 1, L, L).
        """
        qkv = self.qkv(x)
        if self.q_bias is not None and self.v_bias is not None:
            qkv = qkv + torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        query, key, value = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        if rotary is not None:
            query, key = (rotate(each, rotary, self.rotate_pairs) for each in (query, key))
        attended = F.scaled_dot_product_attention(query, key, value, mask).transpose(1, 2).flatten(2)
        return self.proj(attended if self.norm is None else self.norm(attended))


def rotate(x: Tensor, rotary: Tensor, pairs: bool) -> Tensor:
    """Rotate the channels of the last P tokens of ``x`` (N, heads, L, D) by their angles; others are unchanged.

    Args:
        x: Queries or keys.
        rotary: Cosine and sine, (2, P, D).
        pairs: Channels 2i and 2i + 1 are one point of the plane, instead of i and i + D / 2.
    """
    prefix = x.shape[2] - rotary.shape[1]  # class and register tokens have no position
    cos, sin = rotary.to(x.dtype)
    first, patches = x[:, :, :prefix], x[:, :, prefix:]
    if pairs:
        a, b = patches.unflatten(-1, (-1, 2)).unbind(-1)
        turned = torch.stack([-b, a], -1).flatten(-2)
    else:
        a, b = patches.chunk(2, -1)
        turned = torch.cat([-b, a], -1)
    return torch.cat([first, patches * cos + turned * sin], 2)


class MLP(nn.Module):
    """Two linear layers with an activation between them, on (..., C)."""

    def __init__(self, embed_dims: int, feedforward_channels: int, act_cfg: LayerConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dims, feedforward_channels)
        self.act = build_activation(act_cfg)
        self.fc2 = nn.Linear(feedforward_channels, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class SwiGLU(nn.Module):
    """Feed-forward network with a gate, w3(norm(SiLU(w1 x) * (w2 x))), on (..., C); ``norm_cfg`` None is no norm."""

    def __init__(self, embed_dims: int, feedforward_channels: int, norm_cfg: LayerConfig | None = None) -> None:
        super().__init__()
        self.w1 = nn.Linear(embed_dims, feedforward_channels)
        self.w2 = nn.Linear(embed_dims, feedforward_channels)
        self.ffn_ln = None if norm_cfg is None else build_norm(norm_cfg, feedforward_channels)[1]
        self.w3 = nn.Linear(feedforward_channels, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.w1(x)) * self.w2(x)
        return self.w3(x if self.ffn_ln is None else self.ffn_ln(x))


class LayerScale(nn.Module):
    """A factor for each channel of the last axis."""

    def __init__(self, channels: int, init_values: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), float(init_values)))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """Attention and a feed-forward network, each after a norm, with layer scale and a residual connection.

    Args:
        embed_dims: C of (N, L, C).
        attn: The attention.
        mlp: The feed-forward network.
        norm_cfg: Type of the norms.
        init_values: Initial layer scale; None is no layer scale.
        drop_path_rate: Drop path rate of both residual branches.
        with_cp: Activation checkpointing.
    """

    def __init__(
        self,
        embed_dims: int,
        attn: Attention,
        mlp: nn.Module,
        *,
        norm_cfg: LayerConfig,
        init_values: float | None,
        drop_path_rate: float,
        with_cp: bool,
    ) -> None:
        super().__init__()
        self.norm1 = build_norm(norm_cfg, embed_dims)[1]
        self.attn = attn
        self.ls1 = nn.Identity() if init_values is None else LayerScale(embed_dims, init_values)
        self.norm2 = build_norm(norm_cfg, embed_dims)[1]
        self.mlp = mlp
        self.ls2 = nn.Identity() if init_values is None else LayerScale(embed_dims, init_values)
        self.drop_path, self.with_cp = DropPath(drop_path_rate), with_cp

    def forward(self, x: Tensor, rotary: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        return checkpoint_block(self, x, rotary, mask, forward=self._forward, enabled=self.with_cp)

    def _forward(self, x: Tensor, rotary: Tensor | None, mask: Tensor | None) -> Tensor:
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x), rotary, mask)))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))


class PlainViT(Pretrained, FreezableBackbone):
    """Images (N, in_channels, H, W) to one map for each of ``out_indices``, (N, embed_dims, ~H / patch, ~W / patch).

    The base class of the families; its attributes are modules to build other models of: ``patch_embed``, ``blocks``.

    Args:
        blocks: The blocks.
        embed_dims: Channels of a token.
        patch_size: Side of a patch in pixels, the stride of all maps.
        in_channels: Channels of the image.
        num_register_tokens: Register tokens, between the class token and the patches.
        grid: Patches (h, w) of the learned position embeddings; None has no position embeddings.
        antialias: Interpolate position embeddings with antialiasing.
        offset: Added to the size that position embeddings are interpolated to, see `interpolate_positions`.
        norm: Norm of every output; None is no norm.
        out_indices: The blocks whose outputs are returned, counted from 0; -1 is the last.
        frozen_stages: 0 freezes nothing, n the embeddings and the first n blocks; all blocks, the norm as well.
        output_cls_token: Return pairs of a map and the class token (N, embed_dims) instead of maps.
        pretrained: Weights to load.
        adapt: Parameters to add that train in place of the backbone's own.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        *,
        embed_dims: int,
        patch_size: int,
        in_channels: int,
        num_register_tokens: int,
        grid: Grid | None,
        antialias: bool,
        offset: float,
        norm: nn.Module | None,
        out_indices: int | Sequence[int],
        frozen_stages: int,
        output_cls_token: bool,
        pretrained: str | None,
        adapt: Adapter | None,
    ) -> None:
        super().__init__()
        self.out_indices = check_out_indices(out_indices, len(blocks), from_end=True)
        self.channels, self.strides = (embed_dims,) * len(self.out_indices), (patch_size,) * len(self.out_indices)
        self.grid, self.antialias, self.offset = grid, antialias, offset
        self.output_cls_token = output_cls_token
        self.pretrained, self.adapt = pretrained, adapt
        self.num_prefix_tokens = 1 + num_register_tokens
        self.patch_embed = PatchEmbed(in_channels, embed_dims, patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dims))
        registers = torch.zeros(1, num_register_tokens, embed_dims)
        self.register_tokens = nn.Parameter(registers) if num_register_tokens else None
        self.pos_embed = None if grid is None else nn.Parameter(torch.zeros(1, 1 + grid[0] * grid[1], embed_dims))
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm
        self.apply(_init_weights)
        for token in self.parameters(recurse=False):
            nn.init.trunc_normal_(token, std=0.02)
        self.frozen_stages = check_frozen_stages(frozen_stages, 0, len(blocks))
        self.freeze_stages()

    def forward(self, images: Tensor) -> tuple[Any, ...]:
        """Return the maps of ``out_indices``; with ``output_cls_token``, pairs of a map and the class token (N, C)."""
        tokens, size = self.embed(images)
        rotary, outputs = self.rotary(size), {}
        for i, block in enumerate(self.blocks):
            tokens = block(tokens, rotary)
            if i in self.out_indices:
                outputs[i] = self._output(tokens, size)
        return tuple(outputs[i] for i in self.out_indices)

    def embed(self, images: Tensor) -> tuple[Tensor, Grid]:
        """Return the tokens before the first block, class, registers, patches, (N, L, C), and the patches (h, w)."""
        patches, size = self.patch_embed(images)
        tokens = torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches], 1)
        if self.pos_embed is not None and self.grid is not None:
            tokens = tokens + interpolate_positions(self.pos_embed, self.grid, size, self.antialias, self.offset)
        if self.register_tokens is not None:  # they have no position
            registers = self.register_tokens.expand(tokens.shape[0], -1, -1)
            tokens = torch.cat([tokens[:, :1], registers, tokens[:, 1:]], 1)
        return tokens, size

    def rotary(self, size: Grid) -> Tensor | None:
        """Return cosine and sine of the angles of each patch, (2, h * w, C / heads); None without rotary positions."""
        return None

    def resize_weight(self, name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor | None:
        """Interpolate position embeddings of a square grid."""
        side = math.isqrt(max(value.shape[1] - 1, 0)) if value.ndim == 3 else 0
        if name != "pos_embed" or self.grid is None or side * side + 1 != value.shape[1]:
            return None
        return interpolate_positions(value, (side, side), self.grid, self.antialias, self.offset)

    def layer_of(self, parameter: str, num_layers: int, stage_wise: bool = False) -> int | None:
        if stage_wise:
            return super().layer_of(parameter, num_layers, stage_wise)
        first, _, rest = parameter.partition(".")
        if first == "blocks":
            return int(rest.partition(".")[0]) + 1
        return None if first == "norm" else 0

    def frozen_modules(self) -> list[nn.Module]:
        """Return the patch embedding and the first ``frozen_stages`` blocks; with all blocks, the norm as well."""
        if not self.frozen_stages:
            return []
        last = [self.norm] if self.norm is not None and self.frozen_stages == len(self.blocks) else []
        return [self.patch_embed, *self.blocks[: self.frozen_stages], *last]

    def freeze_stages(self) -> None:
        super().freeze_stages()
        for token in self.parameters(recurse=False) if self.frozen_stages else ():
            token.requires_grad = False

    def _output(self, tokens: Tensor, size: Grid) -> Tensor | tuple[Tensor, Tensor]:
        cls_token, patches = tokens[:, 0], tokens[:, self.num_prefix_tokens :].contiguous()
        if self.norm is not None:
            cls_token, patches = self.norm(cls_token), self.norm(patches)
        feature_map = nlc_to_nchw(patches, size)
        return (feature_map, cls_token) if self.output_cls_token else feature_map


def read_arch(arch: Any, archs: Mapping[str, Any]) -> Any:
    """Return an architecture by name, or the given mapping.

    Raises:
        ConfigError: There is no such name, or a size is missing.
    """
    if isinstance(arch, str):
        if arch not in archs:
            raise ConfigError(Problem(f"{arch!r} is not one of {', '.join(archs)}", "arch"))
        return archs[arch]
    if missing := [name for name in SIZES if name not in arch]:
        raise ConfigError(Problem(f"{dict(arch)} lacks {', '.join(missing)}", "arch"))
    return arch


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d):
        trunc_normal_init(module, std=0.02)
