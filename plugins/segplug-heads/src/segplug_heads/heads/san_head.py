"""SAN's head: mask proposals of a side adapter network, classified by their similarity to CLIP's class embeddings.

Side Adapter Network for Open-Vocabulary Semantic Segmentation, Xu, Zhang, Wei, Hu and Bai, 2023
(https://arxiv.org/abs/2302.12242).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Required, TypedDict

from segkernel.annotations import LabelId, PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.geometry import Size
from segkernel.interfaces.model import Head, Loss, PixelClasses
from segkernel.nn import CrossEntropyLoss, LayerConfig
from segkernel.sample import Targets
from segplug_heads.heads.mask_queries import (
    NO_IGNORE,
    QueryTargets,
    QueryTrainConfig,
    at_random_points,
    at_uncertain_points,
    default_assigner,
    global_mean_count,
    match_queries,
    objects_from_labels,
    point_sampling_of,
    semantic_inference,
)
from segplug_heads.losses.dice_loss import DiceLoss
from segplug_heads.parts.matching import Queries
from segplug_heads.parts.side_adapter import (
    AdapterDecoderConfig,
    AdapterEncoderConfig,
    ClipMap,
    RecWithAttnbias,
    SideAdapterNetwork,
    TokenFormat,
)

SANInputs = tuple[Tensor, Sequence[ClipMap], Tensor]
"""Images (N, C, H, W), CLIP's maps of them, and class embeddings (N, K + 1, D), the last one for the background."""


class SideAdapterConfig(TypedDict, total=False):
    """Arguments of `SideAdapterNetwork`."""

    in_channels: PositiveInt
    clip_channels: PositiveInt
    embed_dims: PositiveInt
    patch_size: PositiveInt
    patch_bias: bool
    num_queries: Required[PositiveInt]
    fusion_index: Sequence[int]
    cfg_encoder: AdapterEncoderConfig
    cfg_decoder: AdapterDecoderConfig
    norm_cfg: LayerConfig


class MaskRecognitionConfig(TypedDict, total=False):
    """Arguments of `RecWithAttnbias`."""

    sos_token_format: TokenFormat
    sos_token_num: Required[int]
    num_layers: PositiveInt
    cross_attn: bool
    embed_dims: PositiveInt
    num_heads: PositiveInt
    mlp_ratio: PositiveInt
    num_fcs: PositiveInt
    qkv_bias: bool
    out_dims: int
    final_norm: bool
    act_cfg: LayerConfig
    norm_cfg: LayerConfig
    frozen_exclude: Sequence[str]


def _example_inputs(head: SideAdapterCLIPHead, size: tuple[int, int], generator: torch.Generator) -> SANInputs:
    """Return inputs of two images of ``size``, for the conformance kit."""
    shape = (2, 8, max(size[0] // 32, 1), max(size[1] // 32, 1))
    maps = [(torch.randn(shape, generator=generator), torch.randn(2, 8, generator=generator)) for _ in range(2)]
    classes = torch.randn(2, head.num_classes + 1, 8, generator=generator)
    return torch.randn(2, 3, *size, generator=generator), maps, classes


class SideAdapterCLIPHead(Head):
    """Images, CLIP's maps and class embeddings -> (N, num_classes, h, w), as `semantic_inference` has it.

    `MultimodalEncoderDecoder` calls it with all three. The losses are ``loss_cls_ce``, ``loss_mask_ce`` and
    ``loss_mask_dice`` of the last layer, and ``d7.loss_cls_ce`` and so on of layer 7 if that is supervised.

    Args:
        num_classes: Number of classes.
        san_cfg: Arguments of the `SideAdapterNetwork`.
        maskgen_cfg: Arguments of the `RecWithAttnbias`.
        deep_supervision_idxs: Layers of the side network, counted from 1, that have losses of their own.
        train_cfg: How proposals are matched with objects, and at how many points; None is by SAN's costs at 12544.
        loss_decode: Losses whose names begin with ``loss_cls`` or ``loss_mask``; None is SAN's three.
        align_corners: As in `segkernel.nn.resize`, for resizing the output.
        ignore_index: Label that is ignored.

    Raises:
        ConfigError: The arguments do not fit together; in ``forward``, the number of class embeddings is wrong.
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
        num_classes: PositiveInt,
        san_cfg: SideAdapterConfig,
        maskgen_cfg: MaskRecognitionConfig,
        deep_supervision_idxs: Sequence[int] = (),
        train_cfg: QueryTrainConfig | None = None,
        loss_decode: Loss | Sequence[Loss] | None = None,
        align_corners: bool = False,
        ignore_index: LabelId = 255,
    ) -> None:
        super().__init__()
        if san_cfg["num_queries"] != maskgen_cfg["sos_token_num"]:
            message = f"{maskgen_cfg['sos_token_num']} tokens for {san_cfg['num_queries']} mask proposals"
            raise ConfigError(Problem(message, "maskgen_cfg.sos_token_num"))
        train = train_cfg or {}
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.output = PixelClasses(num_classes, num_classes, "none", align_corners=align_corners)
        self.deep_supervision_idxs = list(deep_supervision_idxs)
        self.side_adapter_network = SideAdapterNetwork(**san_cfg)
        self.rec_with_attnbias = RecWithAttnbias(**maskgen_cfg)
        self.assigner, self.sampler = train.get("assigner") or default_assigner(), train.get("sampler")
        self.point_sampling = point_sampling_of(train)
        losses = _default_losses(num_classes) if loss_decode is None else loss_decode
        losses = losses if isinstance(losses, Sequence) else [losses]
        for loss in losses:
            _check_name(loss.name)
        self.loss_decode = nn.ModuleList(losses)

    def queries(self, inputs: SANInputs) -> tuple[list[Tensor], list[Tensor]]:
        """Return class logits (N, Q, K + 1) and mask logits (N, Q, h, w) of each supervised layer and of the last."""
        return self._run(inputs, self.deep_supervision_idxs)

    def forward(self, inputs: SANInputs) -> Tensor:  # type: ignore[override]  # more than the features of one backbone
        """Return `semantic_inference` of the last layer at the stride of the side network's patches."""
        return self.predict(inputs)

    def predict(self, inputs: SANInputs, size: Size | None = None) -> Tensor:  # type: ignore[override]
        class_logits, mask_logits = self._run(inputs, ())
        return semantic_inference(class_logits[-1], mask_logits[-1], size)

    def loss(self, inputs: SANInputs, targets: Targets) -> dict[str, Tensor]:  # type: ignore[override]
        return self.single_pass(inputs, targets)[1]

    def single_pass(
        self, inputs: SANInputs, targets: Targets, size: Size | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        objects = [objects_from_labels(labels, self.ignore_index) for labels in targets["seg"]]
        layers = list(zip(*self.queries(inputs), strict=True))
        prefixes = [*(f"d{index}." for index in self.deep_supervision_idxs), ""]
        num_objects = float(sum(len(found.labels) for found in objects))
        losses: dict[str, Tensor] = {}
        for prefix, (class_logits, mask_logits) in zip(prefixes, layers, strict=True):
            queries = map(Queries, class_logits, mask_logits)
            pairs = (
                at_random_points(*image, num_points=self.point_sampling.num_points)
                for image in zip(queries, objects, strict=True)
            )
            shape = (*class_logits.shape[:2], self.num_classes)
            matched = match_queries(pairs, objects, self.assigner, self.sampler, shape)
            # Unlike in Mask2Former, the mean is over all objects, matched or not.
            count = global_mean_count(class_logits.new_tensor(num_objects))
            named = self._losses(class_logits, mask_logits, matched, count)
            losses |= {f"{prefix}{name}": value for name, value in named.items()}
        return semantic_inference(*layers[-1], size), losses

    def _run(self, inputs: SANInputs, supervised: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
        images, clip_maps, class_embeddings = inputs
        if class_embeddings.shape[1] != self.num_classes + 1:
            message = f"{class_embeddings.shape[1]} class embeddings for {self.num_classes} classes and the background"
            raise ConfigError(Problem(message, "num_classes"))
        proposals = self.side_adapter_network(images, clip_maps, supervised)
        embeddings = [self.rec_with_attnbias(biases, clip_maps[-1]) for _, biases in proposals]
        # Both are of length 1, the class embeddings times CLIP's logit scale: logits are scaled cosine similarities.
        class_logits = [torch.einsum("nqc,nkc->nqk", x, class_embeddings) for x in embeddings]
        return class_logits, [mask_logits for mask_logits, _ in proposals]

    def _losses(
        self, class_logits: Tensor, mask_logits: Tensor, targets: QueryTargets, count: Tensor
    ) -> dict[str, Tensor]:
        """Return the losses of a layer, averaged by ``count`` objects."""
        labels, matched = targets.labels.flatten(), mask_logits[targets.matched]
        predicted, true = matched, targets.masks
        if len(matched):
            predicted, true = at_uncertain_points(matched, targets.masks, self.point_sampling)
        losses: dict[str, Tensor] = {}
        for loss in self._loss_list():
            if loss.name.startswith("loss_cls"):
                value = loss(class_logits.flatten(0, 1), labels, ignore_index=NO_IGNORE)
            elif not len(matched):
                value = matched.sum()  # 0, with a gradient
            else:
                # The Dice loss has one value for each mask, the other one for each point.
                values = 1 if isinstance(loss, DiceLoss) else self.point_sampling.num_points
                value = loss(predicted, true, ignore_index=NO_IGNORE, avg_factor=count * values)
            losses[loss.name] = value
        return losses

    def _loss_list(self) -> list[Loss]:
        return [loss for loss in self.loss_decode if isinstance(loss, Loss)]


def _check_name(name: str) -> None:
    if not name.startswith(("loss_cls", "loss_mask")):
        message = f"{name!r} begins neither with loss_cls nor with loss_mask"
        raise ConfigError(Problem(message, "loss_decode", hint="set its loss_name"))


def _default_losses(num_classes: int) -> list[Loss]:
    weights = [1.0] * num_classes + [0.1]
    return [
        CrossEntropyLoss(class_weight=weights, loss_weight=2.0, loss_name="loss_cls_ce"),
        CrossEntropyLoss(use_sigmoid=True, loss_weight=5.0, loss_name="loss_mask_ce"),
        DiceLoss(ignore_index=None, naive_dice=True, eps=1.0, loss_weight=5.0, loss_name="loss_mask_dice"),
    ]
