"""Encoder-only mask transformer (EoMT): a plain vision transformer is the whole model but for the output layers.

    model:
      type: EoMT
      backbone: {type: DINOv2, arch: large, patch_size: 16, num_register_tokens: 4, img_size: 512}
      decode_head: {type: EoMTHead, feat_channels: 1024, num_classes: 150}

Your ViT is Secretly an Image Segmentation Model, Kerssies et al., 2025 (https://arxiv.org/abs/2503.19108).
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Backbone, TestConfig
from segplug_heads.heads.eomt_head import EncoderState, EoMTHead, ExampleBlock
from segplug_heads.segmentors.encoder_decoder import EncoderDecoder

NEEDED = ("embed", "rotary", "blocks", "norm")


class EoMT(EncoderDecoder):
    """Images (N, C, H, W) -> (N, K, h, w), `semantic_inference` of the queries of an `EoMTHead`.

    Args:
        backbone: A vision transformer whose blocks can be run one by one, such as `DINOv2` or `DINOv3`: it has
            ``embed(images)``, which returns tokens and the number of patches (h, w), ``rotary((h, w))``, ``blocks`` and
            ``norm``.
        decode_head: Takes the last blocks.
        test_cfg: Inference mode of `segkernel.inference`: whole images or sliding windows.
        pretrained: Weights to load into the backbone: a file, an address or a known name.
        direct_resize: As in `EncoderDecoder`.

    Raises:
        ConfigError: The backbone and the head do not fit together.
    """

    fixed_arguments: ClassVar = {"neck": None, "auxiliary_head": None, "train_cfg": None}
    conformance: ClassVar[Any] = {
        "backbone": {"type": "segplug_heads.segmentors.eomt:ToyViT"},
        "decode_head": {"type": "EoMTHead", **EoMTHead.conformance},
    }

    def __init__(
        self,
        backbone: Backbone,
        decode_head: EoMTHead,
        test_cfg: TestConfig | None = None,
        pretrained: str | None = None,
        direct_resize: bool = False,
    ) -> None:
        _check_fit(backbone, decode_head)
        super().__init__(backbone, decode_head, test_cfg=test_cfg, pretrained=pretrained, direct_resize=direct_resize)

    def extract_feat(self, images: Tensor) -> EncoderState:  # type: ignore[override]  # not maps, but what makes them
        """Return the encoder before the blocks that the queries pass through."""
        encoder: Any = self.backbone
        head = cast(EoMTHead, self.decode_head)
        tokens, size = encoder.embed(images)
        rotary = encoder.rotary(size)
        first = len(encoder.blocks) - head.num_blocks
        for block in encoder.blocks[:first]:
            tokens = block(tokens, rotary)
        return EncoderState(tokens, size, rotary, encoder.blocks[first:], encoder.norm)


def _check_fit(backbone: Any, head: EoMTHead) -> None:
    if missing := [name for name in NEEDED if getattr(backbone, name, None) is None]:
        message = f"{type(backbone).__name__} has no {', '.join(missing)}: its blocks cannot take queries"
        raise ConfigError(Problem(message, "backbone", hint="DINOv2 and DINOv3 can, with final_norm"))
    if len(backbone.blocks) < head.num_blocks:
        message = f"{head.num_blocks} blocks of an encoder that has {len(backbone.blocks)}"
        raise ConfigError(Problem(message, "decode_head.num_blocks"))
    if backbone.channels[-1] != head.feat_channels:
        message = f"{head.feat_channels}, but the tokens of the encoder have {backbone.channels[-1]} channels"
        raise ConfigError(Problem(message, "decode_head.feat_channels"))


class ToyViT(Backbone):
    """A transformer of three blocks with a class token; for conformance checks.

    Args:
        in_channels: Channels of the images.
        channels: Channels of a token.
    """

    def __init__(self, in_channels: int = 3, channels: int = 16) -> None:
        super().__init__()
        self.channels, self.strides = (channels,), (16,)
        self.patch_embed = nn.Conv2d(in_channels, channels, 16, 16)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, channels))
        self.blocks = nn.ModuleList(ExampleBlock() for _ in range(3))
        self.norm = nn.LayerNorm(channels)

    def embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return the tokens and the number of patches (h, w)."""
        padding = (0, -images.shape[3] % 16, 0, -images.shape[2] % 16)
        patches = self.patch_embed(nn.functional.pad(images, padding))
        tokens = patches.flatten(2).transpose(1, 2)
        return torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], 1), (
            patches.shape[2],
            patches.shape[3],
        )

    def rotary(self, size: tuple[int, int]) -> None:
        """Return None: there are no rotary positions."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        tokens, size = self.embed(images)
        for block in self.blocks:
            tokens = block(tokens)
        return (self.norm(tokens)[:, 1:].transpose(1, 2).unflatten(2, size),)
