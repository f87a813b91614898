"""What one stage of K-Net does: kernels look at what they cover in the feature map, and change.

Zhang et al., K-Net: Towards Unified Image Segmentation, 2021 (https://arxiv.org/abs/2106.14855).
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from segkernel.errors import ConfigError, Problem
from segkernel.nn import FFN, ConvModule, LayerConfig, MultiheadAttention, build_activation, build_norm, resize

RELU = {"type": "ReLU", "inplace": True}


class KernelUpdator(nn.Module):
    """Mix each kernel with the features it covers, by two gates that depend on both.

    ``update`` (..., C) and ``kernels`` (..., k * k, C) -> (M, k * k, D), M being the product of the other dimensions.
    Vectors of several times C count as that many.

    Args:
        in_channels: C.
        feat_channels: Channels inside; C, as the layers follow one another.
        out_channels: D; C for None.
        gate_sigmoid: Keep the gates between 0 and 1.
        gate_norm_act: Normalise and activate what the gates are made of.
        activate_out: Activate the two parts before they are mixed.
        norm_cfg: Kind of norm.
        act_cfg: Kind of activation.

    Raises:
        ConfigError: ``feat_channels`` is not ``in_channels``.
    """

    component_group = "parts"
    conformance: ClassVar = {"in_channels": 8, "feat_channels": 8}

    def __init__(
        self,
        in_channels: int = 256,
        feat_channels: int = 256,
        out_channels: int | None = None,
        gate_sigmoid: bool = True,
        gate_norm_act: bool = False,
        activate_out: bool = False,
        norm_cfg: LayerConfig = {"type": "LN"},  # noqa: B006  never changed
        act_cfg: LayerConfig = RELU,
    ) -> None:
        super().__init__()
        if feat_channels != in_channels:
            message = f"{feat_channels} channels cannot be multiplied with {in_channels}"
            raise ConfigError(Problem(message, "feat_channels", hint="make it in_channels"))
        self.in_channels, self.out_channels = in_channels, out_channels or in_channels
        self.gate_sigmoid, self.activate_out = gate_sigmoid, activate_out
        self.dynamic_layer = nn.Linear(in_channels, 2 * feat_channels)
        self.input_layer = nn.Linear(in_channels, 2 * feat_channels)
        self.input_gate = nn.Linear(in_channels, feat_channels)
        self.update_gate = nn.Linear(in_channels, feat_channels)
        self.gate_norm = build_norm(norm_cfg, feat_channels)[1] if gate_norm_act else None
        self.norm_in = build_norm(norm_cfg, feat_channels)[1]
        self.norm_out = build_norm(norm_cfg, feat_channels)[1]
        self.input_norm_in = build_norm(norm_cfg, feat_channels)[1]
        self.input_norm_out = build_norm(norm_cfg, feat_channels)[1]
        self.activation = build_activation(act_cfg)
        self.fc_layer = nn.Linear(feat_channels, self.out_channels)
        self.fc_norm = build_norm(norm_cfg, self.out_channels)[1]

    def forward(self, update: Tensor, kernels: Tensor) -> Tensor:
        places = kernels.shape[-2] if kernels.ndim > 2 else 1
        update_in, update_out = self.dynamic_layer(update.reshape(-1, 1, self.in_channels)).chunk(2, -1)
        kernel_in, kernel_out = self.input_layer(kernels.reshape(-1, places, self.in_channels)).chunk(2, -1)
        product = kernel_in * update_in
        if self.gate_norm is not None:
            product = self.activation(self.gate_norm(product))
        kernel_gate = self._gate(self.input_norm_in(self.input_gate(product)))
        update_gate = self._gate(self.norm_in(self.update_gate(product)))
        update_out, kernel_out = self.norm_out(update_out), self.input_norm_out(kernel_out)
        if self.activate_out:
            update_out, kernel_out = self.activation(update_out), self.activation(kernel_out)
        mixed = update_gate * update_out + kernel_gate * kernel_out
        return self.activation(self.fc_norm(self.fc_layer(mixed)))

    def _gate(self, x: Tensor) -> Tensor:
        return x.sigmoid() if self.gate_sigmoid else x


class KernelUpdateHead(nn.Module):
    """One stage: feature map (N, C, H, W), kernels (N, P, C, k, k), masks (N, P, h, w) -> masks and kernels.

    The new masks are (N, P, H, W), or (N, P, *mask_shape).

    Args:
        num_classes: P.
        num_ffn_fcs: Layers of the feed-forward network.
        num_heads: Of the attention between kernels.
        num_mask_fcs: Layers that make the convolution of the masks from a kernel.
        feedforward_channels: Width of the feed-forward network.
        in_channels: C.
        out_channels: C, too: channels of that convolution.
        dropout: Share of values dropped in attention and feed-forward network.
        act_cfg: Activation of the mask layers.
        ffn_act_cfg: Activation of the feed-forward network.
        conv_kernel_size: k.
        feat_transform_cfg: Arguments of a `ConvModule` that the feature map goes through; none for None.
        kernel_init: Begin with small weights in the last layer.
        with_ffn: Whether there is a feed-forward network.
        feat_gather_stride: Stride of that convolution.
        mask_transform_stride: 2 makes masks at half the size.
        kernel_updator_cfg: Mixes kernels and features; `KernelUpdator` with its defaults for None.
    """

    component_group = "parts"
    conformance: ClassVar = {
        "in_channels": 8, "out_channels": 8, "num_heads": 2, "feedforward_channels": 8,
        "kernel_updator_cfg": {"type": "KernelUpdator", "in_channels": 8, "feat_channels": 8},
    }  # fmt: skip

    def __init__(
        self,
        num_classes: int = 150,
        num_ffn_fcs: int = 2,
        num_heads: int = 8,
        num_mask_fcs: int = 3,
        feedforward_channels: int = 2048,
        in_channels: int = 256,
        out_channels: int = 256,
        dropout: float = 0.0,
        act_cfg: LayerConfig = RELU,
        ffn_act_cfg: LayerConfig = RELU,
        conv_kernel_size: int = 1,
        feat_transform_cfg: dict[str, Any] | None = None,
        kernel_init: bool = False,
        with_ffn: bool = True,
        feat_gather_stride: int = 1,
        mask_transform_stride: int = 1,
        kernel_updator_cfg: KernelUpdator | None = None,
    ) -> None:
        super().__init__()
        if out_channels != in_channels:
            raise ConfigError(Problem(f"{out_channels}, but the feature map has {in_channels}", "out_channels"))
        self.num_classes, self.in_channels, self.conv_kernel_size = num_classes, in_channels, conv_kernel_size
        self.halve_masks = mask_transform_stride == 2
        self.halve_map = self.halve_masks and feat_gather_stride == 1
        length = in_channels * conv_kernel_size**2
        self.attention = MultiheadAttention(length, num_heads, dropout)
        self.attention_norm = nn.LayerNorm(length)
        self.kernel_update_conv = KernelUpdator() if kernel_updator_cfg is None else kernel_updator_cfg
        self.feat_transform = None
        if feat_transform_cfg is not None:
            options = {"kernel_size": 1, "padding": feat_gather_stride // 2, **feat_transform_cfg}
            self.feat_transform = ConvModule(in_channels, in_channels, stride=feat_gather_stride, **options)
        self.ffn = self.ffn_norm = None
        if with_ffn:
            self.ffn = FFN(in_channels, feedforward_channels, num_ffn_fcs, act_cfg=ffn_act_cfg, ffn_drop=dropout)
            self.ffn_norm = nn.LayerNorm(in_channels)
        self.mask_fcs = nn.ModuleList()
        for _ in range(num_mask_fcs):
            linear = nn.Linear(in_channels, in_channels, bias=False)
            self.mask_fcs.extend([linear, nn.LayerNorm(in_channels), build_activation(act_cfg)])
        self.fc_mask = nn.Linear(in_channels, out_channels)
        self._initialise(kernel_init)

    def forward(
        self, x: Tensor, kernels: Tensor, masks: Tensor, mask_shape: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor]:
        x = x if self.feat_transform is None else self.feat_transform(x)
        kernels = self._updated(self._covered(x, masks), kernels)
        convolutions = kernels
        for layer in self.mask_fcs:
            convolutions = layer(convolutions)
        return self._masks(x, self._shaped(self.fc_mask(convolutions)), mask_shape), self._shaped(kernels)

    def _covered(self, x: Tensor, masks: Tensor) -> Tensor:
        """Return the sum of features under each mask, (N, P, C)."""
        shares = resize(masks, x.shape[2:]).softmax(1)
        return shares.flatten(2) @ x.flatten(2).mT

    def _updated(self, covered: Tensor, kernels: Tensor) -> Tensor:
        """Return the kernels (N, P, k * k, C) after the update, attention to one another and feed-forward network."""
        batch, count = kernels.shape[:2]
        kernels = self.kernel_update_conv(covered, kernels.flatten(3).mT)
        kernels = self.attention_norm(self.attention(kernels.reshape(batch, count, -1)))
        kernels = kernels.unflatten(2, (-1, self.in_channels))
        return kernels if self.ffn is None else self.ffn_norm(self.ffn(kernels))  # type: ignore[misc]

    def _masks(self, x: Tensor, convolutions: Tensor, mask_shape: tuple[int, int] | None) -> Tensor:
        """Convolve each map (C, H, W) with its own (P, C, k, k)."""
        x = resize(x, scale_factor=0.5) if self.halve_map else x
        size, side = x.shape[2:], self.conv_kernel_size
        columns = x.flatten(2) if side == 1 else F.unfold(x, side, padding=side // 2)
        masks = (convolutions.flatten(2) @ columns).unflatten(2, tuple(size))
        masks = resize(masks, scale_factor=2) if self.halve_masks else masks
        return masks if mask_shape is None else resize(masks, mask_shape)

    def _shaped(self, kernels: Tensor) -> Tensor:
        """(N, P, k * k, C) -> (N, P, C, k, k)."""
        return kernels.mT.unflatten(3, (self.conv_kernel_size, self.conv_kernel_size))

    def _initialise(self, kernel_init: bool) -> None:
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        if kernel_init:
            nn.init.normal_(self.fc_mask.weight, std=0.01)
