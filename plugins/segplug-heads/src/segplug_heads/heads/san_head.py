"""SAN's head: masks from a network beside CLIP, named by their likeness to the classes' vectors.

Xu, Zhang, Wei, Hu and Bai, Side Adapter Network for Open-Vocabulary Semantic Segmentation, 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Required, TypedDict

from segkernel.errors import ConfigError, Problem
from segkernel.geometry import Size
from segkernel.interfaces.model import Head, Loss, PixelClasses
from segkernel.nn import CrossEntropyLoss, LayerConfig, resize
from segkernel.sample import Targets
from segplug_heads.heads.mask_queries import (
    NOTHING_IGNORED,
    QueryTargets,
    QueryTrainConfig,
    divisor,
    match,
    objects_in,
    pixel_scores,
    points_of,
    uncertain_mask_points,
)
from segplug_heads.losses.dice_loss import DiceLoss
from segplug_heads.parts.matching import ClassificationCost, CrossEntropyLossCost, DiceCost, HungarianAssigner
from segplug_heads.parts.side_adapter import (
    AdapterDecoderConfig,
    AdapterEncoderConfig,
    ClipMap,
    RecWithAttnbias,
    SideAdapterNetwork,
)

SANInputs = tuple[Tensor, Sequence[ClipMap], Tensor]
"""Images (N, C, H, W), CLIP's maps of them, each with its class token, and the classes' vectors (N, K + 1, D)."""


class SideAdapterConfig(TypedDict, total=False):
    """Arguments of `SideAdapterNetwork`."""

    in_channels: int
    clip_channels: int
    embed_dims: int
    patch_size: int
    patch_bias: bool
    num_queries: Required[int]
    fusion_index: Sequence[int]
    cfg_encoder: AdapterEncoderConfig
    cfg_decoder: AdapterDecoderConfig
    norm_cfg: LayerConfig


class MaskRecognitionConfig(TypedDict, total=False):
    """Arguments of `RecWithAttnbias`."""

    sos_token_format: str
    sos_token_num: Required[int]
    num_layers: int
    cross_attn: bool
    embed_dims: int
    num_heads: int
    mlp_ratio: int
    num_fcs: int
    qkv_bias: bool
    out_dims: int
    final_norm: bool
    act_cfg: LayerConfig
    norm_cfg: LayerConfig
    frozen_exclude: Sequence[str]


def _example_inputs(head: SideAdapterCLIPHead, size: tuple[int, int], generator: torch.Generator) -> SANInputs:
    """Return inputs of two images of a size, for the conformance kit."""
    shape = (2, 8, max(size[0] // 32, 1), max(size[1] // 32, 1))
    maps = [(torch.randn(shape, generator=generator), torch.randn(2, 8, generator=generator)) for _ in range(2)]
    classes = torch.randn(2, head.num_classes + 1, 8, generator=generator)
    return torch.randn(2, 3, *size, generator=generator), maps, classes


class SideAdapterCLIPHead(Head):
    """Images, CLIP's maps and the classes' vectors -> scores (N, num_classes, h, w), none negative.

    It is called with all three, by `MultimodalEncoderDecoder`. Losses are ``loss_cls_ce``, ``loss_mask_ce`` and
    ``loss_mask_dice`` of the last layer, ``d7.loss_cls_ce`` ... of layer 7 where that is supervised.

    Args:
        num_classes: Number of classes.
        san_cfg: The network beside CLIP.
        maskgen_cfg: CLIP's last layers, which name the masks.
        deep_supervision_idxs: Layers of the network, counted from 1, that learn from losses of their own.
        train_cfg: How masks are matched with objects, and at how many points; by SAN's costs at 12544 for None.
        loss_decode: Losses whose names begin with ``loss_cls``, ``loss_mask``; SAN's three for None.
        align_corners: How scores are resized.
        ignore_index: The label that does not count.

    Raises:
        ConfigError: Arguments that do not fit each other.
    """

    conformance: ClassVar = {
        "num_classes": 4,
        "deep_supervision_idxs": [1],
        "san_cfg": {
            "clip_channels": 8,
            "embed_dims": 8,
            "num_queries": 6,
            "fusion_index": [0, 1],
            "cfg_encoder": {"num_encode_layer": 2, "num_heads": 2, "mlp_ratio": 2},
            "cfg_decoder": {"num_heads": 2, "embed_channels": 8, "mlp_channels": 8, "num_mlp": 2, "rescale": True},
        },
        "maskgen_cfg": {"sos_token_num": 6, "num_layers": 1, "embed_dims": 8, "num_heads": 2, "out_dims": 8},
        "train_cfg": {
            "num_points": 64,
            "assigner": {"type": "HungarianAssigner", "match_costs": [{"type": "ClassificationCost"}]},
        },
    }

    conformance_inputs: ClassVar = {"make": _example_inputs}

    def __init__(
        self,
        num_classes: int,
        san_cfg: SideAdapterConfig,
        maskgen_cfg: MaskRecognitionConfig,
        deep_supervision_idxs: Sequence[int] = (),
        train_cfg: QueryTrainConfig | None = None,
        loss_decode: Loss | Sequence[Loss] | None = None,
        align_corners: bool = False,
        ignore_index: int = 255,
    ) -> None:
        super().__init__()
        if san_cfg["num_queries"] != maskgen_cfg["sos_token_num"]:
            message = f"{maskgen_cfg['sos_token_num']} tokens for {san_cfg['num_queries']} masks"
            raise ConfigError(Problem(message, "maskgen_cfg.sos_token_num"))
        train = train_cfg or {}
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.output = PixelClasses(num_classes, num_classes, "none", align_corners=align_corners)
        self.deep_supervision_idxs = list(deep_supervision_idxs)
        self.side_adapter_network = SideAdapterNetwork(**san_cfg)
        self.rec_with_attnbias = RecWithAttnbias(**maskgen_cfg)
        self.assigner, self.sampler = train.get("assigner") or _assigner(), train.get("sampler")
        self.num_points = train.get("num_points", 12544)
        self.point_ratios = train.get("oversample_ratio", 3.0), train.get("importance_sample_ratio", 0.75)
        losses = _losses(num_classes) if loss_decode is None else loss_decode
        self.loss_decode = nn.ModuleList(losses if isinstance(losses, Sequence) else [losses])
        for loss in self.loss_decode:
            _check_name(loss.name)

    def queries(self, inputs: SANInputs) -> tuple[list[Tensor], list[Tensor]]:
        """Return class scores (N, Q, K + 1) and masks (N, Q, h, w) of each supervised layer and of the last."""
        return self._run(inputs, self.deep_supervision_idxs)

    def forward(self, inputs: SANInputs) -> Tensor:  # type: ignore[override]
        """Return scores at the stride of the network's patches."""
        scores, masks = self._run(inputs, ())
        return pixel_scores(scores[-1], masks[-1])

    def predict(self, inputs: SANInputs, size: tuple[int, int] | None = None) -> Tensor:  # type: ignore[override]
        scores, masks = self._run(inputs, ())
        return pixel_scores(scores[-1], masks[-1] if size is None else resize(masks[-1], size))

    def loss(self, inputs: SANInputs, targets: Targets) -> dict[str, Tensor]:  # type: ignore[override]
        return self.single_pass(inputs, targets)[1]

    def single_pass(  # type: ignore[override]
        self, inputs: SANInputs, targets: Targets, size: Size | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        objects = [objects_in(labels, self.ignore_index) for labels in targets["seg"]]
        layers = list(zip(*self.queries(inputs), strict=True))
        prefixes = [*(f"d{index}." for index in self.deep_supervision_idxs), ""]
        total, named = sum(len(found.labels) for found in objects), {}
        for prefix, (scores, masks) in zip(prefixes, layers, strict=True):
            compared = (
                points_of(*image, num_points=self.num_points) for image in zip(scores, masks, objects, strict=True)
            )
            wanted = match(compared, objects, self.assigner, self.sampler, (*scores.shape[:2], self.num_classes))
            losses = self._losses(scores, masks, wanted, divisor(scores.new_tensor(float(total))))
            named |= {f"{prefix}{name}": value for name, value in losses.items()}
        scores, masks = layers[-1]
        return pixel_scores(scores, masks if size is None else resize(masks, size)), named

    def _run(self, inputs: SANInputs, supervised: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
        images, clip_maps, classes = inputs
        if classes.shape[1] != self.num_classes + 1:
            message = f"{classes.shape[1]} vectors for {self.num_classes} classes and 'none of them'"
            raise ConfigError(Problem(message, "num_classes"))
        proposals = self.side_adapter_network(images, clip_maps, supervised)
        vectors = [self.rec_with_attnbias(biases, clip_maps[-1]) for _, biases in proposals]
        return [torch.einsum("nqc,nkc->nqk", x, classes) for x in vectors], [masks for masks, _ in proposals]

    def _losses(self, scores: Tensor, masks: Tensor, targets: QueryTargets, count: Tensor) -> dict[str, Tensor]:
        """Return the losses of a layer; ``count`` is the number of objects, matched or not."""
        matched = masks[targets.matched]
        if len(matched):
            seen, true = uncertain_mask_points(matched, targets.masks, self.num_points, *self.point_ratios)
        named = {}
        for loss in self.loss_decode:
            if loss.name.startswith("loss_cls"):
                value = loss(scores.flatten(0, 1), targets.labels.flatten(), ignore_index=NOTHING_IGNORED)
            elif not len(matched):
                value = matched.sum()  # 0, with a gradient
            else:
                entries = count if isinstance(loss, DiceLoss) else count * self.num_points
                value = loss(seen, true, ignore_index=NOTHING_IGNORED, avg_factor=entries)
            named[loss.name] = value
        return named


def _check_name(name: str) -> None:
    if not name.startswith(("loss_cls", "loss_mask")):
        message = f"{name!r} begins neither with loss_cls nor with loss_mask"
        raise ConfigError(Problem(message, "loss_decode", hint="set its loss_name"))


def _losses(num_classes: int) -> list[Loss]:
    weights = [1.0] * num_classes + [0.1]
    return [
        CrossEntropyLoss(class_weight=weights, loss_weight=2.0, loss_name="loss_cls_ce"),
        CrossEntropyLoss(use_sigmoid=True, loss_weight=5.0, loss_name="loss_mask_ce"),
        DiceLoss(ignore_index=None, naive_dice=True, eps=1.0, loss_weight=5.0, loss_name="loss_mask_dice"),
    ]


def _assigner() -> HungarianAssigner:
    return HungarianAssigner(
        [ClassificationCost(2.0), CrossEntropyLossCost(weight=5.0), DiceCost(pred_act=True, eps=1.0, weight=5.0)]
    )
