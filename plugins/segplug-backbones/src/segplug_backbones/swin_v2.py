"""Swin Transformer V2: cosine attention, a continuous position bias, and norms after each branch.

    features = SwinTransformerV2("tiny")(torch.rand(2, 3, 512, 512))
    # 96, 192, 384, 768 channels at strides 4, 8, 16, 32

Swin Transformer V2: Scaling Up Capacity and Resolution, Liu et al., 2022 (https://arxiv.org/abs/2111.09883).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import TypedDict

from segkernel.annotations import Positive, PositiveInt, Probability
from segkernel.errors import ConfigError, Problem
from segkernel.nn import (
    FFN,
    DropPath,
    FreezableBackbone,
    LayerConfig,
    PatchEmbed,
    build_norm,
    check_frozen_stages,
    check_out_indices,
    check_per_stage,
    checkpoint_block,
    linear_drop_path_rates,
    nlc_to_nchw,
    trunc_normal_init,
)
from segplug_backbones.adapters import Adapter
from segplug_backbones.pretrained import Pretrained
from segplug_backbones.swin import MASKED, PatchMerging
from segplug_backbones.windows import (
    Size,
    count_windows,
    crop_to_size,
    pad_to_windows,
    relative_position_index,
    shift_region_ids,
    window_attention_mask,
    window_partition,
    window_reverse,
)

ARCHS: dict[str, tuple[int, tuple[int, ...], tuple[int, ...]]] = {
    "tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "small": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "base": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "large": (192, (2, 2, 18, 2), (6, 12, 24, 48)),
    "huge": (352, (2, 2, 18, 2), (11, 22, 44, 88)),
}
"""Channels of the first stage, blocks and attention heads of each stage; section 3.6 of the paper."""
Arch = Literal["tiny", "small", "base", "large", "huge"]

MAX_LOGIT_SCALE = math.log(100)
"""The temperature of equation 2 is at least 0.01."""
MAX_BIAS = 16.0
"""The position bias is between 0 and this, as in the authors' code."""
MAX_OFFSET = 8.0
"""Value of the largest offset of a window, before its logarithm is taken."""


class SwinV2Arch(TypedDict):
    """A custom architecture: channels of the first stage, blocks and heads of each stage."""

    embed_dims: PositiveInt
    depths: Sequence[PositiveInt]
    num_heads: Sequence[PositiveInt]


class WindowMSAV2(nn.Module):
    """Cosine attention within windows, with a position bias computed by a small network; equations 2 to 4 of the paper.

    (N, windows, tokens, C) -> the same shape.

    Args:
        embed_dims: C.
        num_heads: Attention heads; must divide ``embed_dims``.
        pretrained_window_size: Side in tokens of the windows that the bias was trained with; 0 for those of the input.
        qkv_bias: Whether queries and values have a bias; keys have none.
        attn_drop_rate: Dropout rate of the attention weights.
        proj_drop_rate: Dropout rate of the output projection.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        pretrained_window_size: int = 0,
        qkv_bias: bool = True,
        attn_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads, self.pretrained_window_size = num_heads, pretrained_window_size
        self.logit_scale = nn.Parameter(torch.full((num_heads, 1, 1), math.log(10)))
        self.cpb_mlp = nn.Sequential(nn.Linear(2, 512), nn.ReLU(inplace=True), nn.Linear(512, num_heads, bias=False))
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(embed_dims)) if qkv_bias else None
        self.v_bias = nn.Parameter(torch.zeros(embed_dims)) if qkv_bias else None
        self.attn_drop = nn.Dropout(attn_drop_rate)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.proj_drop = nn.Dropout(proj_drop_rate)

    def forward(self, x: Tensor, window_size: Size, mask: Tensor | None = None) -> Tensor:
        """Return the attention of windows of (height, width) tokens; ``mask`` is added to its logits."""
        bias = None
        if self.q_bias is not None and self.v_bias is not None:
            bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        q, k, v = F.linear(x, self.qkv.weight, bias).unflatten(-1, (3, self.num_heads, -1)).permute(3, 0, 1, 4, 2, 5)
        scale = self.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()
        position_bias = self.position_bias(window_size)
        if mask is not None:
            position_bias = position_bias + mask.unsqueeze(1)
        weights = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * scale + position_bias
        attended = self.attn_drop(weights.softmax(-1)) @ v
        return self.proj_drop(self.proj(attended.transpose(2, 3).flatten(3)))

    def position_bias(self, window_size: Size) -> Tensor:
        """Return the bias for each head and each pair of tokens of a window, (heads, tokens, tokens)."""
        axes = [self._log_offsets(side) for side in window_size]
        offsets = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 1)
        table = MAX_BIAS * self.cpb_mlp(offsets).sigmoid()
        index = relative_position_index(window_size).to(table.device)
        return table[index].permute(2, 0, 1)

    def _log_offsets(self, side: int) -> Tensor:
        """Return the logarithms of the offsets along an axis, signed, equation 4 of the paper."""
        largest = (self.pretrained_window_size or side) - 1
        offsets = torch.arange(1 - side, side, device=self.logit_scale.device, dtype=self.logit_scale.dtype)
        offsets = offsets * (MAX_OFFSET / max(largest, 1))
        return offsets.sign() * (offsets.abs() + 1).log2() / math.log2(MAX_OFFSET)


class ShiftWindowMSAV2(nn.Module):
    """`WindowMSAV2` on a feature map, in windows that may be shifted: (N, H * W, C) and (H, W) -> (N, H * W, C).

    Args:
        attention: Attention within one window.
        window_size: Side of a window in tokens.
        shift_size: Tokens by which windows are shifted right and down; 0 for an unshifted layer.
        pad_small_map: Pad maps to whole windows, then shift, as transformers does; otherwise shift, then pad, as timm
            does, with windows shrunk to the map, and not shifted, along each axis that is not longer than a window.
    """

    def __init__(self, attention: WindowMSAV2, window_size: int, shift_size: int, pad_small_map: bool) -> None:
        super().__init__()
        self.w_msa = attention
        self.window_size, self.shift_size, self.pad_small_map = window_size, shift_size, pad_small_map

    def forward(self, x: Tensor, size: Size) -> Tensor:
        """Return the attention of the tokens ``x`` of a map of ``size`` (H, W)."""
        window_size, shift = self._window_and_shift(size)
        num_windows = count_windows(size, window_size)
        grid = x.unflatten(1, size)
        if self.pad_small_map:
            grid = _roll(pad_to_windows(grid, num_windows, window_size), shift, -1)
        else:
            grid = pad_to_windows(_roll(grid, shift, -1), num_windows, window_size)
        mask = None
        if any(shift):
            regions = shift_region_ids(num_windows, window_size, shift, x.device)
            mask = window_attention_mask(regions, num_windows, window_size, MASKED, x.dtype)
        windows = self.w_msa(window_partition(grid, num_windows, window_size), window_size, mask)
        grid = window_reverse(windows, num_windows, window_size)
        if self.pad_small_map:
            return crop_to_size(_roll(grid, shift, 1), size).flatten(1, 2)
        return _roll(crop_to_size(grid, size), shift, 1).flatten(1, 2)

    def _window_and_shift(self, size: Size) -> tuple[Size, Size]:
        window, shift = self.window_size, self.shift_size
        if self.pad_small_map:
            return (window, window), (shift, shift)
        height, width = (min(window, length) for length in size)
        down, right = (shift if length > window else 0 for length in size)
        return (height, width), (down, right)


def _roll(grid: Tensor, shift: Size, sign: int) -> Tensor:
    """Shift (N, H, W, C) cyclically down and right."""
    return grid.roll((sign * shift[0], sign * shift[1]), (1, 2)) if any(shift) else grid


class SwinBlockV2(nn.Module):
    """Attention in windows and a feed-forward network, each followed by a norm; figure 1 of the paper.

    (N, H * W, C) and (H, W) -> (N, H * W, C).

    Args:
        embed_dims: C.
        attention: Attention of the map.
        feedforward_channels: Hidden width of the feed-forward network.
        drop_rate: Dropout rate in the feed-forward network.
        drop_path_rate: Drop path rate of both branches.
        act_cfg: Type of the activation.
        norm_cfg: Type of the norms.
        with_cp: Activation checkpointing.
    """

    def __init__(
        self,
        embed_dims: int,
        attention: ShiftWindowMSAV2,
        *,
        feedforward_channels: int,
        drop_rate: float,
        drop_path_rate: float,
        act_cfg: LayerConfig,
        norm_cfg: LayerConfig,
        with_cp: bool,
    ) -> None:
        super().__init__()
        self.attn = attention
        self.norm1 = build_norm(norm_cfg, embed_dims)[1]
        self.ffn = FFN(embed_dims, feedforward_channels, act_cfg=act_cfg, ffn_drop=drop_rate, add_identity=False)
        self.norm2 = build_norm(norm_cfg, embed_dims)[1]
        self.drop_path = DropPath(drop_path_rate)
        self.with_cp = with_cp

    def forward(self, x: Tensor, size: Size) -> Tensor:
        return checkpoint_block(self, x, size, forward=self._forward, enabled=self.with_cp)

    def _forward(self, x: Tensor, size: Size) -> Tensor:
        x = x + self.drop_path(self.norm1(self.attn(x, size)))
        return x + self.drop_path(self.norm2(self.ffn(x)))


class SwinStageV2(nn.Module):
    """Patch merging, but for the first stage, and blocks: (N, L, C), (h, w) -> (N, L', C'), (h', w').

    Args:
        downsample: Patch merging; None in the first stage.
        blocks: The blocks, every second one with shifted windows.
    """

    def __init__(self, downsample: PatchMerging | None, blocks: Sequence[SwinBlockV2]) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, size: Size) -> tuple[Tensor, Size]:
        if self.downsample is not None:
            x, size = self.downsample(x, size)
        for block in self.blocks:
            x = block(x, size)
        return x, size


class SwinTransformerV2(Pretrained, FreezableBackbone):
    """Images (N, in_channels, H, W) to one feature map for each of ``out_indices``, at strides 4, 8, 16, 32 by default.

    Sizes that are not divisible by a stride are rounded up.

    Args:
        arch: A name, or ``{embed_dims, depths, num_heads}``.
        img_size: Side in pixels of the images that the weights were trained with. It decides where windows are shrunk
            and not shifted: in stages whose map, for this size, is not larger than a window.
        patch_size: Side of a patch in pixels.
        in_channels: Channels of the image.
        window_size: Side of the windows in tokens.
        pretrained_window_sizes: Of each stage, the side of the windows that the weights were pretrained with, before
            they were trained with ``window_size``; 0 for the same.
        mlp_ratio: Hidden width of the feed-forward networks, as a multiple of the channels of the stage.
        out_indices: The stages to return, counted from 0.
        qkv_bias: Whether queries and values have a bias.
        drop_rate: Dropout rate of the tokens, of the projections and in the feed-forward networks.
        attn_drop_rate: Dropout rate of the attention weights.
        drop_path_rate: Drop path rate of the last layer; it rises linearly from 0 at the first one.
        pad_small_map: Windows and shifts are those for ``img_size`` whatever the size of the image, and smaller maps
            are padded, as in transformers; false decides by the map of each image, as timm does. The two differ where
            a map is not larger than a window or not divisible by it; only the first can be exported with open sizes.
        out_norm: Add a norm to each output.
        act_cfg: Type of the activations.
        norm_cfg: Type of the norms and its arguments.
        with_cp: Activation checkpointing: less memory, a second forward pass in training.
        pretrained: Weights to load: a file, an address, or a known name.
        frozen_stages: -1 freezes nothing, 0 the patch embedding, n also the first n stages.
        adapt: Parameters to add that train in place of the backbone's own, such as ``{type: LoRA, rank: 8}``.

    Raises:
        ConfigError: When an argument is out of range or does not fit the others.
    """

    conformance: ClassVar = (
        {
            "arch": {"embed_dims": 8, "depths": [2, 2, 1, 1], "num_heads": [1, 2, 4, 8]},
            "img_size": 64,
            "window_size": 4,
        },
        {"arch": {"embed_dims": 8, "depths": [2, 2], "num_heads": [1, 2]}, "pad_small_map": False, "out_indices": [1]},
    )

    def __init__(
        self,
        arch: Arch | SwinV2Arch = "tiny",
        img_size: PositiveInt = 256,
        patch_size: PositiveInt = 4,
        in_channels: PositiveInt = 3,
        window_size: PositiveInt = 8,
        pretrained_window_sizes: Sequence[int] = (0, 0, 0, 0),
        mlp_ratio: Positive = 4,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        qkv_bias: bool = True,
        drop_rate: Probability = 0.0,
        attn_drop_rate: Probability = 0.0,
        drop_path_rate: Probability = 0.1,
        pad_small_map: bool = True,
        out_norm: bool = True,
        act_cfg: Mapping[str, Any] = {"type": "GELU"},
        norm_cfg: Mapping[str, Any] = {"type": "LN"},
        with_cp: bool = False,
        pretrained: str | None = None,
        frozen_stages: int = -1,
        adapt: Adapter | None = None,
    ) -> None:
        super().__init__()
        if isinstance(arch, str):
            embed_dims, depths, num_heads = ARCHS[arch]
        else:
            embed_dims, depths, num_heads = arch["embed_dims"], tuple(arch["depths"]), tuple(arch["num_heads"])
        check_per_stage(len(depths), {"num_heads": num_heads})
        widths = [embed_dims * 2**i for i in range(len(depths))]
        for width, heads in zip(widths, num_heads, strict=True):
            if width % heads:
                raise ConfigError(Problem(f"{width} channels are not divisible by {heads} heads", "arch.num_heads"))
        self.out_indices = check_out_indices(out_indices, len(depths))
        self.frozen_stages = check_frozen_stages(frozen_stages, -1, len(depths))
        self.pretrained, self.adapt = pretrained, adapt
        self.patch_embed = PatchEmbed(
            in_channels, embed_dims, kernel_size=patch_size, stride=patch_size, norm_cfg=norm_cfg
        )
        self.drop_after_pos = nn.Dropout(drop_rate)
        drop_path_rates = iter(linear_drop_path_rates(drop_path_rate, sum(depths)))
        self.stages = nn.ModuleList()
        for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            side = img_size // patch_size // 2**i
            window, shift = min(window_size, max(side, 1)), window_size // 2 if side > window_size else 0
            if not pad_small_map:
                window, shift = window_size, window_size // 2
            blocks = []
            for j in range(depth):
                attention = WindowMSAV2(
                    width,
                    num_heads[i],
                    pretrained_window_sizes[i] if i < len(pretrained_window_sizes) else 0,
                    qkv_bias=qkv_bias,
                    attn_drop_rate=attn_drop_rate,
                    proj_drop_rate=drop_rate,
                )
                block = SwinBlockV2(
                    width,
                    ShiftWindowMSAV2(attention, window, shift if j % 2 else 0, pad_small_map),
                    feedforward_channels=int(mlp_ratio * width),
                    drop_rate=drop_rate,
                    drop_path_rate=next(drop_path_rates),
                    act_cfg=act_cfg,
                    norm_cfg=norm_cfg,
                    with_cp=with_cp,
                )
                blocks.append(block)
            merging = PatchMerging(width // 2, width, norm_cfg=norm_cfg, is_post_norm=True) if i else None
            self.stages.append(SwinStageV2(merging, blocks))
        for i in sorted(self.out_indices):
            self.add_module(f"norm{i}", build_norm(norm_cfg, widths[i])[1] if out_norm else nn.Identity())
        self.channels = tuple(widths[i] for i in self.out_indices)
        self.strides = tuple(patch_size * 2**i for i in self.out_indices)
        self._init_weights()
        self.freeze_stages()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of ``out_indices``, (N, channels[i], ~H / strides[i], ~W / strides[i])."""
        x, size = self.patch_embed(images)
        x = self.drop_after_pos(x)
        maps = {}
        for i, stage in enumerate(self.stages):
            x, size = stage(x, size)
            if i in self.out_indices:
                maps[i] = nlc_to_nchw(getattr(self, f"norm{i}")(x), size)
        return tuple(maps[i] for i in self.out_indices)

    def _init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_init(module, std=0.02)
            elif isinstance(module, SwinBlockV2):
                # Each branch starts at zero, as in the authors' code.
                for norm in (module.norm1, module.norm2):
                    nn.init.zeros_(norm.get_parameter("weight"))

    def layer_of(self, parameter: str, num_layers: int, stage_wise: bool = False) -> int | None:
        """Return how deep a parameter is, see `Backbone.layer_of`; patch merging is as deep as the block after it."""
        part, *names = parameter.split(".")
        if part != "stages":
            return 0 if part == "patch_embed" else None
        stage = int(names[0])
        if stage_wise:
            return stage + 1
        before = sum(len(cast(SwinStageV2, each).blocks) for each in self.stages[:stage])
        return before + (int(names[2]) if names[1] == "blocks" else 0) + 1

    def frozen_modules(self) -> Sequence[nn.Module]:
        if self.frozen_stages < 0:
            return []
        norms = [getattr(self, f"norm{i}") for i in self.out_indices if i < self.frozen_stages]
        return [self.patch_embed, self.drop_after_pos, *self.stages[: self.frozen_stages], *norms]
