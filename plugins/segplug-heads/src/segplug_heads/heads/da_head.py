"""DANet: self-attention between pixels, and between channels.

Dual Attention Network for Scene Segmentation, Fu et al., 2019 (https://arxiv.org/abs/1809.02983).
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.annotations import PositiveInt
from segkernel.geometry import Size
from segkernel.interfaces.model import Features
from segkernel.nn import ConvModule, DecodeHead, DecodeHeadArguments
from segkernel.sample import Targets
from segplug_heads.heads.scale import Scale
from segplug_heads.parts.self_attention import SelfAttentionBlock


class PAM(SelfAttentionBlock):
    """Position attention module: (N, in_channels, h, w) -> the same shape, with a residual connection.

    Args:
        in_channels: Channels of the feature map.
        channels: Channels of queries and keys.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__(
            key_in_channels=in_channels,
            query_in_channels=in_channels,
            channels=channels,
            out_channels=in_channels,
            share_key_query=False,
            query_downsample=None,
            key_downsample=None,
            key_query_num_convs=1,
            value_out_num_convs=1,
            key_query_norm=False,
            value_out_norm=False,
            matmul_norm=False,  # equation 1 of the paper does not scale the products
            with_out=False,
            conv_cfg=None,
            norm_cfg=None,
            act_cfg=None,
        )
        self.gamma = Scale(0.0)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # queries and keys are of one map
        return self.gamma(super().forward(x, x)) + x


class CAM(nn.Module):
    """Channel attention module: (N, C, h, w) -> the same shape, with a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = Scale(0.0)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.flatten(2)
        energy = channels @ channels.mT
        # As in the authors' code: the less similar two channels are, the larger their weight.
        weights = (energy.amax(2, keepdim=True) - energy).softmax(2)
        return self.gamma((weights @ channels).view_as(x)) + x


class DAHead(DecodeHead):
    """(N, in_channels, h, w) -> logits (N, out_channels, h, w) of the sum of both branches.

    The losses are those of the sum's logits (``pam_cam.loss_ce``) and of each branch's (``pam.``, ``cam.``).

    Args:
        pam_channels: Channels of the position attention's queries and keys.
    """

    conformance: ClassVar = {"in_channels": 16, "channels": 8, "pam_channels": 4, "num_classes": 4}

    def __init__(self, pam_channels: PositiveInt, **kwargs: Unpack[DecodeHeadArguments]) -> None:
        super().__init__(**kwargs)
        self.pam_in_conv, self.pam_out_conv = self._conv(self.in_channels), self._conv(self.channels)
        self.pam = PAM(self.channels, pam_channels)
        self.pam_conv_seg = nn.Conv2d(self.channels, self.out_channels, 1)
        self.cam_in_conv, self.cam_out_conv = self._conv(self.in_channels), self._conv(self.channels)
        self.cam = CAM()
        self.cam_conv_seg = nn.Conv2d(self.channels, self.out_channels, 1)

    def forward_feature(self, features: Features) -> Tensor:
        position, channel = self._branches(features)
        return position + channel

    def loss(self, features: Features, targets: Targets) -> dict[str, Tensor]:
        return self.single_pass(features, targets)[1]

    def single_pass(
        self, features: Features, targets: Targets, size: Size | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        position, channel = self._branches(features)
        logits = {
            "pam_cam": self.cls_seg(position + channel),
            "pam": self.pam_conv_seg(self._drop(position)),
            "cam": self.cam_conv_seg(self._drop(channel)),
        }
        return logits["pam_cam"], {
            f"{branch}.{name}": value
            for branch, branch_logits in logits.items()
            for name, value in self.loss_by_logits(branch_logits, targets["seg"], targets.get("weight")).items()
        }

    def _branches(self, features: Features) -> tuple[Tensor, Tensor]:
        """Return the position and the channel branch, (N, channels, h, w) each."""
        x = self.select(features)
        position = self.pam_out_conv(self.pam(self.pam_in_conv(x)))
        channel = self.cam_out_conv(self.cam(self.cam_in_conv(x)))
        return position, channel

    def _drop(self, x: Tensor) -> Tensor:
        return x if self.dropout is None else self.dropout(x)

    def _conv(self, in_channels: int) -> ConvModule:
        return ConvModule(in_channels, self.channels, 3, padding=1, **self.layer_cfgs)
