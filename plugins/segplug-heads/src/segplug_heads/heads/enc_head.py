"""EncNet: an encoding of the whole image gates the channels, and predicts which classes are present.

Context Encoding for Semantic Segmentation, Zhang et al., 2018 (https://arxiv.org/abs/1803.08904).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.annotations import PositiveInt
from segkernel.geometry import Size
from segkernel.interfaces.model import Features, Loss
from segkernel.labels import Task
from segkernel.nn import (
    ConvModule,
    CrossEntropyLoss,
    DecodeHead,
    LayerConfig,
    MultiLevelHeadArguments,
    build_norm,
    nchw_to_nlc,
    resize,
)
from segkernel.sample import Targets


class Encoding(nn.Module):
    """Encoding layer: residuals of the pixels to each codeword, (N, channels, h, w) -> (N, num_codes, channels, 1).

    Args:
        channels: Length of a codeword.
        num_codes: Number of codewords.
    """

    def __init__(self, channels: int, num_codes: int) -> None:
        super().__init__()
        # The authors' initialisation; scales start below 0, so that the nearest codeword has the largest weight.
        std = (num_codes * channels) ** -0.5
        self.codewords = nn.Parameter(torch.empty(num_codes, channels).uniform_(-std, std))
        self.scale = nn.Parameter(torch.empty(num_codes).uniform_(-1, 0))

    def forward(self, x: Tensor) -> Tensor:
        pixels = nchw_to_nlc(x)
        with _without_autocast(x.device.type):  # distances are small differences of large numbers
            pixels = pixels.to(self.codewords.dtype)
            weights = (self.scale * _squared_distances(pixels, self.codewords)).softmax(2)
            # The weighted sum of (pixel - codeword) over the pixels, equation 1 of the paper, without the (N, L, K, C)
            # tensor of all residuals.
            residuals = weights.mT @ pixels - weights.sum(1).unsqueeze(2) * self.codewords
        return residuals.to(x.dtype).unsqueeze(3)


class EncModule(nn.Module):
    """Context encoding module: (N, in_channels, h, w) -> encoding (N, in_channels), gated map of the same shape.

    Args:
        in_channels: Channels of the feature map.
        num_codes: Number of codewords.
        conv_cfg: Type of the convolutions; None is ``Conv2d``.
        norm_cfg: Type of the norms; None for no norm but batch norm for the codewords.
        act_cfg: Type of the activations; None for no activation.
    """

    def __init__(
        self,
        in_channels: int,
        num_codes: int,
        conv_cfg: LayerConfig | None = None,
        norm_cfg: LayerConfig | None = None,
        act_cfg: LayerConfig | None = None,
    ) -> None:
        super().__init__()
        self.encoding_project = ConvModule(
            in_channels, in_channels, 1, conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg
        )
        norm = build_norm(norm_cfg or {"type": "BN"}, num_codes)[1]
        self.encoding = nn.Sequential(Encoding(in_channels, num_codes), norm, nn.ReLU(inplace=True))
        self.fc = nn.Sequential(nn.Linear(in_channels, in_channels), nn.Sigmoid())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # The mean over the codewords; the paper sums them, which differs by a factor.
        encoding = self.encoding(self.encoding_project(x)).mean(1).flatten(1)
        return encoding, (x + x * self.fc(encoding)[:, :, None, None]).relu()


class EncHead(DecodeHead):
    """Feature maps -> logits (N, out_channels, h, w) at the size of the last map.

    Args:
        num_codes: Number of codewords.
        use_se_loss: Add the semantic encoding loss: predict from the encoding which classes are in the image.
        add_lateral: Use all maps, not the last one alone.
        loss_se_decode: Loss of the presence logits (N, num_classes) against 0 and 1; None is binary cross-entropy with
            a weight of 0.2.
    """

    fixed_arguments = frozenset({"input_transform"})
    tasks: ClassVar[tuple[Task, ...]] = ("multiclass", "binary")
    conformance_exceptions: ClassVar = {"all-ignored": "it predicts which classes an image holds: none here"}
    conformance: ClassVar = {
        "in_channels": [8, 16], "in_index": [0, 1], "channels": 8, "num_classes": 4, "num_codes": 3, "add_lateral": True
    }  # fmt: skip

    def __init__(
        self,
        num_codes: PositiveInt = 32,
        use_se_loss: bool = True,
        add_lateral: bool = False,
        loss_se_decode: Loss | None = None,
        **kwargs: Unpack[MultiLevelHeadArguments],
    ) -> None:
        super().__init__(input_transform="multiple_select", **kwargs)
        self.bottleneck = ConvModule(self.in_channels[-1], self.channels, 3, padding=1, **self.layer_cfgs)
        self.add_lateral, self.use_se_loss = add_lateral, use_se_loss
        if add_lateral:
            self.lateral_convs = nn.ModuleList(
                ConvModule(width, self.channels, 1, **self.layer_cfgs) for width in self.in_channels[:-1]
            )
            self.fusion = ConvModule(
                len(self.in_channels) * self.channels, self.channels, 3, padding=1, **self.layer_cfgs
            )
        self.enc_module = EncModule(self.channels, num_codes, **self.layer_cfgs)
        if use_se_loss:
            self.loss_se_decode = loss_se_decode or CrossEntropyLoss(use_sigmoid=True, loss_weight=0.2)
            self.se_layer = nn.Linear(self.channels, self.num_classes)

    def forward_feature(self, features: Features) -> Tensor:
        return self._encode(features)[1]

    def loss(self, features: Features, targets: Targets) -> dict[str, Tensor]:
        return self.single_pass(features, targets)[1]

    def single_pass(
        self, features: Features, targets: Targets, size: Size | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        encoding, x = self._encode(features)
        logits = self.cls_seg(x)
        losses = self.loss_by_logits(logits, targets["seg"], targets.get("weight"))
        if self.use_se_loss:
            present = classes_present(targets["seg"], self.num_classes, self.ignore_index)
            losses["loss_se"] = self.loss_se_decode(self.se_layer(encoding), present)
        return logits, losses

    def _encode(self, features: Features) -> tuple[Tensor, Tensor]:
        """Return the encoding (N, channels) and the gated map (N, channels, h, w)."""
        *finer, coarsest = self.select(features)
        x = self.bottleneck(coarsest)
        if self.add_lateral:
            size = x.shape[2:]
            laterals = [
                resize(conv(feature), size, align_corners=self.align_corners)
                for conv, feature in zip(self.lateral_convs, finer, strict=True)
            ]
            x = self.fusion(torch.cat([x, *laterals], 1))
        return self.enc_module(x)


def _without_autocast(device: str) -> AbstractContextManager[Any]:
    active = device != "meta" and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if active else nullcontext()


def _squared_distances(pixels: Tensor, codewords: Tensor) -> Tensor:
    """Return (N, L, K) for (N, L, C) and (K, C), without an (N, L, K, C) tensor in memory."""
    products = pixels @ codewords.T
    return pixels.square().sum(2, keepdim=True) - 2 * products + codewords.square().sum(1)


def classes_present(labels: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """Return (N, num_classes), 1 for classes in the label map (N, H, W) and 0 for others."""
    labels = labels.flatten(1).long()
    valid = (labels >= 0) & (labels < num_classes) & (labels != ignore_index)
    present = labels.new_zeros(len(labels), num_classes + 1)  # the last column takes ignored pixels
    present.scatter_(1, labels.where(valid, num_classes), 1)
    return present[:, :num_classes]
