"""Encoder-only mask transformer (EoMT): queries that pass through the last blocks of a plain vision transformer.

Your ViT is Secretly an Image Segmentation Model, Kerssies et al., 2025 (https://arxiv.org/abs/2503.19108).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from segkernel.annotations import LabelId, NonNegativeInt, PositiveInt
from segkernel.geometry import Size
from segkernel.interfaces.model import Loss
from segkernel.nn import LayerConfig, build_activation, build_norm, nlc_to_nchw, resize
from segkernel.sample import Targets
from segplug_heads.heads.mask_queries import PointQueryHead, QueryTrainConfig

GELU: LayerConfig = {"type": "GELU"}
NORM: LayerConfig = {"type": "LN2d", "eps": 1e-6}


@dataclass(frozen=True)
class EncoderState:
    """A vision transformer before its last blocks.

    Args:
        tokens: Prefix tokens (class, registers) and patches, (N, P + h * w, C).
        size: Patches (h, w).
        rotary: Rotary positions of the patches, as the blocks take them; None without.
        blocks: The last blocks: ``block(tokens, rotary, mask)``, with a boolean mask (N, 1, L, L), true where attention
            is allowed.
        norm: The norm after the last block.
    """

    tokens: Tensor
    size: Size
    rotary: Tensor | None
    blocks: Sequence[nn.Module]
    norm: nn.Module

    @property
    def num_patches(self) -> int:
        """Return h * w."""
        return self.size[0] * self.size[1]


def _example_inputs(head: EoMTHead, size: tuple[int, int], generator: torch.Generator) -> EncoderState:
    """Return the state of an encoder for two images of ``size``, for the conformance kit."""
    height, width = max(size[0] // 16, 1), max(size[1] // 16, 1)
    tokens = torch.randn(2, 1 + height * width, head.feat_channels, generator=generator)
    blocks = [ExampleBlock() for _ in range(head.num_blocks)]
    return EncoderState(tokens, (height, width), None, blocks, nn.LayerNorm(head.feat_channels))


class ExampleBlock(nn.Module):
    """Attention without projections, for conformance checks: (N, L, C) -> (N, L, C)."""

    def forward(self, x: Tensor, rotary: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        heads = x.unsqueeze(1)
        return x + nn.functional.scaled_dot_product_attention(heads, heads, heads, mask).squeeze(1)


class EoMTHead(PointQueryHead):
    """The last blocks of an encoder, as an `EoMT` hands them over -> (N, num_classes, h, w), `semantic_inference`.

    The queries stand before the tokens in these blocks, at four times the resolution of the patches their masks are
    predicted. In training they attend to the foreground of their own masks, predicted before each of the blocks; the
    probability of that, ``attn_mask_probs``, goes from 1 to 0 block by block, so that in inference the encoder is as
    fast as without masks (section 3.3): `MaskAnnealingHook` sets it.

    The losses are ``loss_cls``, ``loss_mask`` and ``loss_dice`` after the last block, and ``d0.loss_cls`` and so on of
    the predictions before it.

    Args:
        feat_channels: Channels of a token of the encoder.
        num_classes: Number of classes.
        num_queries: Number of queries, the most masks that can be found in an image.
        num_blocks: Blocks that the queries pass through: 3 for ViT-S and ViT-B, 4 for ViT-L, 5 for ViT-g in the paper.
        num_upscale: Upscaling of the patches by two, this often: 2 for patches of 16 pixels gives masks at stride 4.
        masked_attention: Masked attention and losses before each block in training. False is training without masks.
        act_cfg: Type of the activations.
        loss_cls: Loss of the classes; None is cross-entropy times 2, with a weight of 0.1 for "no object", the last
            class.
        loss_mask: Loss of the masks' points; None is binary cross-entropy times 5.
        loss_dice: Loss of the masks' overlap; None is the Dice loss times 5.
        train_cfg: How queries are matched with objects, and at how many points; None is as in Mask2Former.
        align_corners: As in `segkernel.nn.resize`, for resizing the output.
        ignore_index: Label that is ignored.
    """

    conformance: ClassVar = {
        "feat_channels": 16,
        "num_classes": 4,
        "num_queries": 6,
        "num_blocks": 2,
        "train_cfg": {
            "num_points": 64,
            "assigner": {"type": "HungarianAssigner", "match_costs": [{"type": "ClassificationCost"}]},
        },
    }
    conformance_inputs: ClassVar = {"make": _example_inputs}
    conformance_exceptions: ClassVar = dict.fromkeys(
        ("batch-independent", "gradients", "trains-before", "input-kept"),
        "its input holds the blocks of an encoder; the same checks of EoMT cover the two together",
    )

    def __init__(
        self,
        feat_channels: PositiveInt,
        num_classes: PositiveInt = 150,
        num_queries: PositiveInt = 100,
        num_blocks: PositiveInt = 4,
        num_upscale: NonNegativeInt = 2,
        masked_attention: bool = True,
        act_cfg: LayerConfig = GELU,
        loss_cls: Loss | None = None,
        loss_mask: Loss | None = None,
        loss_dice: Loss | None = None,
        train_cfg: QueryTrainConfig | None = None,
        align_corners: bool = False,
        ignore_index: LabelId = 255,
    ) -> None:
        super().__init__(
            num_classes=num_classes,
            feat_channels=feat_channels,
            out_channels=feat_channels,
            num_queries=num_queries,
            in_index=None,
            loss_cls=loss_cls,
            loss_mask=loss_mask,
            loss_dice=loss_dice,
            train_cfg=train_cfg,
            ignore_index=ignore_index,
            align_corners=align_corners,
            act_cfg=act_cfg,
        )
        self.feat_channels, self.num_blocks, self.masked_attention = feat_channels, num_blocks, masked_attention
        self.query_feat = nn.Embedding(num_queries, feat_channels)
        self.upscale = nn.Sequential(*(ScaleBlock(feat_channels, act_cfg) for _ in range(num_upscale)))
        self.attn_mask_probs: Tensor
        self.register_buffer("attn_mask_probs", torch.full((num_blocks,), float(masked_attention)))
        self.masked_blocks = (masked_attention,) * num_blocks

    def queries(self, state: EncoderState) -> tuple[list[Tensor], list[Tensor]]:  # type: ignore[override]
        """Return class logits (N, Q, K + 1) and mask logits (N, Q, h, w) before masked blocks and after the last."""
        query = self.query_feat.weight.expand(state.tokens.shape[0], -1, -1)
        tokens = torch.cat([query, state.tokens], 1)
        predictions = []
        for i, block in enumerate(state.blocks):
            mask = None
            if self.masked_attention if self.training else self.masked_blocks[i]:
                predictions.append(self._predict_queries(tokens, state))
                mask = self._attention_mask(predictions[-1][1], tokens, state, self.attn_mask_probs[i])
            tokens = block(tokens, state.rotary, mask)
        predictions.append(self._predict_queries(tokens, state))
        return [class_logits for class_logits, _ in predictions], [mask_logits for _, mask_logits in predictions]

    def set_mask_probabilities(self, probabilities: Sequence[float]) -> None:
        """Set the probability of each block, from 0 to 1, that a query attends to its own foreground only.

        In training each query draws for itself. In evaluation nothing is drawn: a block masks from 0.5 on.
        """
        self.attn_mask_probs.copy_(torch.tensor(probabilities))
        self._choose_masked_blocks(probabilities)

    def train(self, mode: bool = True) -> EoMTHead:
        self._read_masked_blocks()
        return super().train(mode)

    def forward(self, state: EncoderState) -> Tensor:  # type: ignore[override]  # more than the features of a backbone
        """Return `semantic_inference` after the last block at the size of the mask logits, (N, K, h, w)."""
        return self.predict(state)

    def predict(self, state: EncoderState, size: Size | None = None) -> Tensor:  # type: ignore[override]
        class_logits, mask_logits = self.queries(state)
        return self.scores(class_logits[-1], mask_logits[-1], size)

    def loss(self, state: EncoderState, targets: Targets) -> dict[str, Tensor]:  # type: ignore[override]
        return self.single_pass(state, targets)[1]  # type: ignore[arg-type]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._read_masked_blocks()

    def _read_masked_blocks(self) -> None:
        """Read which blocks mask in evaluation: an exported graph cannot depend on the values of a buffer."""
        if not self.attn_mask_probs.is_meta:
            self._choose_masked_blocks(self.attn_mask_probs.tolist())

    def _choose_masked_blocks(self, probabilities: Sequence[float]) -> None:
        self.masked_blocks = tuple(probability >= 0.5 for probability in probabilities)

    def _predict_queries(self, tokens: Tensor, state: EncoderState) -> tuple[Tensor, Tensor]:
        """Return class logits (N, Q, K + 1) and mask logits (N, Q, h, w) of the tokens of a block."""
        tokens = state.norm(tokens)
        query, patches = tokens[:, : self.num_queries], tokens[:, -state.num_patches :]
        mask_features = self.upscale(nlc_to_nchw(patches, state.size))
        return self.cls_embed(query), torch.einsum("nqc,nchw->nqhw", self.mask_embed(query), mask_features)

    def _attention_mask(self, mask_logits: Tensor, tokens: Tensor, state: EncoderState, probability: Tensor) -> Tensor:
        """Return (N, 1, L, L), false for the patches outside of each masked query's foreground."""
        batch, length = tokens.shape[:2]
        allowed = (resize(mask_logits.detach(), state.size) > 0).flatten(2)
        if self.training:
            unmasked = torch.rand(batch, self.num_queries, 1, device=tokens.device) >= probability
            allowed = allowed | unmasked
        to_tokens = allowed.new_ones(batch, self.num_queries, length - state.num_patches)
        of_tokens = allowed.new_ones(batch, length - self.num_queries, length)
        return torch.cat([torch.cat([to_tokens, allowed], 2), of_tokens], 1).unsqueeze(1)


class ScaleBlock(nn.Module):
    """A map at twice its resolution, (N, C, h, w) -> (N, C, 2 h, 2 w), as ViTDet scales the maps of a plain ViT."""

    def __init__(self, channels: int, act_cfg: LayerConfig) -> None:
        super().__init__()
        self.conv1 = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.act = build_activation(act_cfg)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norm = build_norm(NORM, channels)[1]

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv2(self.act(self.conv1(x))))
