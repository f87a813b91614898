"""The image encoder of SAM 2: Hiera with windows of four sizes and position embeddings of a window and of the image.

    features = SAM2Hiera("tiny")(torch.rand(2, 3, 1024, 1024))  # 96, 192, 384, 768 channels at strides 4, 8, 16, 32

SAM 2: Segment Anything in Images and Videos, Ravi et al., 2024 (https://arxiv.org/abs/2408.00714); the position
embeddings are those of Window Attention is Bugged, Bolya et al., 2023 (https://arxiv.org/abs/2311.05613).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from typing_extensions import TypedDict

from segkernel.annotations import NonNegativeInt, Positive, PositiveInt, Probability
from segkernel.nn import resize
from segplug_backbones.adapters import Adapter
from segplug_backbones.hiera import HieraTrunk
from segplug_backbones.windows import Size


class SAM2HieraArch(TypedDict):
    """A custom architecture.

    Args:
        embed_dims: Channels of the first stage, doubled in each further one.
        num_heads: Attention heads of the first stage, doubled in each further one.
        depths: Blocks of each stage.
        window_sizes: Of each stage, the side of the windows in tokens.
        global_attn_indexes: Blocks that attend to the whole map, counted from 0.
        position_size: Side of the map of position embeddings of the image.
    """

    embed_dims: PositiveInt
    num_heads: PositiveInt
    depths: Sequence[PositiveInt]
    window_sizes: Sequence[PositiveInt]
    global_attn_indexes: Sequence[NonNegativeInt]
    position_size: PositiveInt


ARCHS: dict[str, SAM2HieraArch] = {
    name: SAM2HieraArch(
        embed_dims=embed_dims,
        num_heads=num_heads,
        depths=depths,
        window_sizes=window_sizes,
        global_attn_indexes=global_attn_indexes,
        position_size=position_size,
    )
    for name, embed_dims, num_heads, depths, window_sizes, global_attn_indexes, position_size in (
        ("tiny", 96, 1, (1, 2, 7, 2), (8, 4, 14, 7), (5, 7, 9), 7),
        ("small", 96, 1, (1, 2, 11, 2), (8, 4, 14, 7), (7, 10, 13), 7),
        ("base_plus", 112, 2, (2, 3, 16, 3), (8, 4, 14, 7), (12, 16, 20), 14),
        ("large", 144, 2, (2, 6, 36, 4), (8, 4, 16, 8), (23, 33, 43), 7),
    )
}
"""The four models of the authors."""
Arch = Literal["tiny", "small", "base_plus", "large"]


class SAM2Hiera(HieraTrunk):
    """Images (N, in_channels, H, W) to one feature map for each of ``out_indices``, at strides 4, 8, 16, 32 by default.

    Sizes that are not divisible by a stride are rounded up; images are padded with zeros to multiples of 32 pixels.

    Args:
        arch: A name, or ``{embed_dims, num_heads, depths, window_sizes, global_attn_indexes, position_size}``.
        in_channels: Channels of the image.
        mlp_ratio: Hidden width of the feed-forward networks, as a multiple of the channels of the stage.
        out_indices: The stages to return, counted from 0.
        drop_path_rate: Drop path rate of the last block; it rises linearly from 0 at the first one.
        out_norm: Add a norm to each output; the authors have none.
        with_cp: Activation checkpointing: less memory, a second forward pass in training.
        pretrained: Weights to load: a file, an address, or a known name.
        adapt: Parameters to add that train in place of the backbone's own, such as ``{type: LoRA, rank: 8}``.
        frozen_stages: -1 freezes nothing, 0 the embeddings, n also the first n stages.

    Raises:
        ConfigError: When an argument is out of range or does not fit the others.
    """

    conformance: ClassVar = {
        "arch": {
            "embed_dims": 8,
            "num_heads": 1,
            "depths": [1, 1, 2, 1],
            "window_sizes": [4, 2, 4, 3],
            "global_attn_indexes": [3],
            "position_size": 3,
        }
    }

    def __init__(
        self,
        arch: Arch | SAM2HieraArch = "tiny",
        in_channels: PositiveInt = 3,
        mlp_ratio: Positive = 4,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: Probability = 0.0,
        out_norm: bool = False,
        with_cp: bool = False,
        pretrained: str | None = None,
        adapt: Adapter | None = None,
        frozen_stages: int = -1,
    ) -> None:
        sizes = ARCHS[arch] if isinstance(arch, str) else arch
        embed_dims, windows, side = sizes["embed_dims"], sizes["window_sizes"], sizes["position_size"]
        super().__init__(
            embed_dims,
            sizes["num_heads"],
            sizes["depths"],
            window_sizes=windows,
            global_blocks=sizes["global_attn_indexes"],
            mlp_ratio=mlp_ratio,
            in_channels=in_channels,
            out_indices=out_indices,
            drop_path_rate=drop_path_rate,
            out_norm=out_norm,
            with_cp=with_cp,
            pretrained=pretrained,
            adapt=adapt,
            frozen_stages=frozen_stages,
        )
        self.pos_embed = nn.Parameter(torch.zeros(1, embed_dims, side, side))
        self.pos_embed_window = nn.Parameter(torch.zeros(1, embed_dims, windows[0], windows[0]))
        self.init_weights()
        self.freeze_stages()

    def positions(self, size: Size) -> Tensor:
        image = resize(self.pos_embed, size, mode="bicubic")
        rows, columns = (torch.arange(side, device=image.device) % self.pos_embed_window.shape[2] for side in size)
        return (image + self.pos_embed_window[:, :, rows][..., columns]).permute(0, 2, 3, 1)

    def resize_weight(self, name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor | None:
        """Interpolate position embeddings of another map."""
        if name == "pos_embed" and value.ndim == 4:
            return resize(value, (shape[2], shape[3]), mode="bicubic")
        return None
