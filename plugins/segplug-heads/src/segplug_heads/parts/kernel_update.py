"""One stage of K-Net: kernels are updated with the features under their masks, and predict new masks.

K-Net: Towards Unified Image Segmentation, Zhang et al., 2021 (https://arxiv.org/abs/2106.14855). The stage follows
section 3.2 of the paper: group feature assembling, adaptive kernel update and kernel interaction.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from segkernel.annotations import NonNegativeInt, PositiveInt, Probability
from segkernel.errors import ConfigError, Problem
from segkernel.nn import FFN, ConvModule, LayerConfig, MultiheadAttention, build_activation, build_norm, resize

RELU = {"type": "ReLU", "inplace": True}


class KernelUpdator(nn.Module):
    """Adaptive kernel update: a gated sum of each kernel and the features under its mask.

    ``update`` (..., C) and ``kernels`` (..., k * k, C) -> (M, k * k, D), M being the product of the other dimensions.
    Vectors of a multiple of C channels are split into that many vectors.

    Args:
        in_channels: C.
        feat_channels: Hidden channels; must be C.
        out_channels: D; None is C.
        gate_sigmoid: Apply a sigmoid to the gates.
        gate_norm_act: Apply norm and activation to the input of the gates.
        activate_out: Apply the activation to both terms of the sum.
        norm_cfg: Type of the norms.
        act_cfg: Type of the activations.

    Raises:
        ConfigError: ``feat_channels`` is not ``in_channels``.
    """

    component_group = "parts"
    conformance: ClassVar = {"in_channels": 8, "feat_channels": 8}

    def __init__(
        self,
        in_channels: PositiveInt = 256,
        feat_channels: PositiveInt = 256,
        out_channels: PositiveInt | None = None,
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
        positions = kernels.shape[-2] if kernels.ndim > 2 else 1
        # Equation 4 multiplies phi_1 (update) and phi_2 (kernel) into the gate features; psi_3 and psi_4 of equation 5
        # are the other halves of the same two layers.
        update_in, update_out = self.dynamic_layer(update.reshape(-1, 1, self.in_channels)).chunk(2, -1)
        kernel_in, kernel_out = self.input_layer(kernels.reshape(-1, positions, self.in_channels)).chunk(2, -1)
        gate_input = kernel_in * update_in
        if self.gate_norm is not None:
            gate_input = self.activation(self.gate_norm(gate_input))
        kernel_gate = self._gate(self.input_norm_in(self.input_gate(gate_input)))
        update_gate = self._gate(self.norm_in(self.update_gate(gate_input)))
        update_out, kernel_out = self.norm_out(update_out), self.input_norm_out(kernel_out)
        if self.activate_out:
            update_out, kernel_out = self.activation(update_out), self.activation(kernel_out)
        updated = update_gate * update_out + kernel_gate * kernel_out
        return self.activation(self.fc_norm(self.fc_layer(updated)))

    def _gate(self, x: Tensor) -> Tensor:
        return x.sigmoid() if self.gate_sigmoid else x


class KernelUpdateHead(nn.Module):
    """One stage: feature map (N, C, H, W), kernels (N, P, C, k, k), mask logits (N, P, h, w) -> mask logits, kernels.

    The new mask logits are (N, P, H, W), or (N, P, *mask_shape).

    Args:
        num_classes: P; there is one kernel for each class.
        num_ffn_fcs: Linear layers of the feed-forward network.
        num_heads: Attention heads of the kernel interaction; must divide C k^2.
        num_mask_fcs: Layers between an updated kernel and the convolution that predicts its mask.
        feedforward_channels: Hidden width of the feed-forward network.
        in_channels: C.
        out_channels: Channels of the convolution that predicts a mask; must be C.
        dropout: Dropout rate in the attention and the feed-forward network.
        act_cfg: Activation of the mask layers.
        ffn_act_cfg: Activation of the feed-forward network.
        conv_kernel_size: k.
        feat_transform_cfg: Arguments of a `ConvModule` that is applied to the feature map; None for none.
        kernel_init: Draw the last layer from a normal distribution of standard deviation 0.01.
        with_ffn: Add a feed-forward network.
        feat_gather_stride: Stride of the ``feat_transform_cfg`` convolution.
        mask_transform_stride: 2 predicts masks at half the size and upsamples them.
        kernel_updator_cfg: The adaptive kernel update; None is `KernelUpdator` with its defaults.

    Raises:
        ConfigError: ``out_channels`` is not ``in_channels``.
    """

    component_group = "parts"
    conformance: ClassVar = {
        "in_channels": 8, "out_channels": 8, "num_heads": 2, "feedforward_channels": 8,
        "kernel_updator_cfg": {"type": "KernelUpdator", "in_channels": 8, "feat_channels": 8},
    }  # fmt: skip

    def __init__(
        self,
        num_classes: PositiveInt = 150,
        num_ffn_fcs: PositiveInt = 2,
        num_heads: PositiveInt = 8,
        num_mask_fcs: NonNegativeInt = 3,
        feedforward_channels: PositiveInt = 2048,
        in_channels: PositiveInt = 256,
        out_channels: PositiveInt = 256,
        dropout: Probability = 0.0,
        act_cfg: LayerConfig = RELU,
        ffn_act_cfg: LayerConfig = RELU,
        conv_kernel_size: PositiveInt = 1,
        feat_transform_cfg: dict[str, Any] | None = None,
        kernel_init: bool = False,
        with_ffn: bool = True,
        feat_gather_stride: PositiveInt = 1,
        mask_transform_stride: PositiveInt = 1,
        kernel_updator_cfg: KernelUpdator | None = None,
    ) -> None:
        super().__init__()
        if out_channels != in_channels:
            raise ConfigError(Problem(f"{out_channels}, but the feature map has {in_channels}", "out_channels"))
        self.num_classes, self.in_channels, self.conv_kernel_size = num_classes, in_channels, conv_kernel_size
        self.half_size_masks = mask_transform_stride == 2
        self.downsample_map = self.half_size_masks and feat_gather_stride == 1
        kernel_length = in_channels * conv_kernel_size**2
        self.attention = MultiheadAttention(kernel_length, num_heads, dropout)
        self.attention_norm = nn.LayerNorm(kernel_length)
        self.kernel_update_conv = KernelUpdator() if kernel_updator_cfg is None else kernel_updator_cfg
        self.feat_transform = None
        if feat_transform_cfg is not None:
            options = {"kernel_size": 1, "padding": feat_gather_stride // 2, **feat_transform_cfg}
            self.feat_transform = ConvModule(in_channels, in_channels, stride=feat_gather_stride, **options)
        self.ffn: nn.Module | None = None
        self.ffn_norm: nn.Module | None = None
        if with_ffn:
            self.ffn = FFN(in_channels, feedforward_channels, num_ffn_fcs, act_cfg=ffn_act_cfg, ffn_drop=dropout)
            self.ffn_norm = nn.LayerNorm(in_channels)
        self.mask_fcs = nn.ModuleList()
        # Bias-free before a norm, as in the authors' code; the last layer alone has a bias.
        for _ in range(num_mask_fcs):
            linear = nn.Linear(in_channels, in_channels, bias=False)
            self.mask_fcs.extend([linear, nn.LayerNorm(in_channels), build_activation(act_cfg)])
        self.fc_mask = nn.Linear(in_channels, out_channels)
        self._initialise(kernel_init)

    def forward(
        self, x: Tensor, kernels: Tensor, masks: Tensor, mask_shape: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor]:
        x = x if self.feat_transform is None else self.feat_transform(x)
        kernels = self._update_kernels(self._assemble(x, masks), kernels)
        weights = kernels
        for layer in self.mask_fcs:
            weights = layer(weights)
        masks = self._predict_masks(x, self._to_conv_shape(self.fc_mask(weights)), mask_shape)
        return masks, self._to_conv_shape(kernels)

    def _assemble(self, x: Tensor, masks: Tensor) -> Tensor:
        """Group feature assembling: the sum of the features under each mask, (N, P, C)."""
        # The masks are classes here, so that a softmax makes them exclusive; the paper's instances have a sigmoid.
        probabilities = resize(masks, x.shape[2:]).softmax(1)
        return probabilities.flatten(2) @ x.flatten(2).mT

    def _update_kernels(self, assembled: Tensor, kernels: Tensor) -> Tensor:
        """Adaptive kernel update, kernel interaction and feed-forward network: kernels (N, P, k * k, C)."""
        batch, count = kernels.shape[:2]
        kernels = self.kernel_update_conv(assembled, kernels.flatten(3).mT)
        kernels = self.attention_norm(self.attention(kernels.reshape(batch, count, -1)))
        kernels = kernels.unflatten(2, (-1, self.in_channels))
        if self.ffn is None or self.ffn_norm is None:
            return kernels
        return self.ffn_norm(self.ffn(kernels))

    def _predict_masks(self, x: Tensor, weights: Tensor, mask_shape: tuple[int, int] | None) -> Tensor:
        """Convolve the map (C, H, W) of each image with its own weights, (P, C, k, k)."""
        x = resize(x, scale_factor=0.5) if self.downsample_map else x
        size, side = x.shape[2:], self.conv_kernel_size
        # A product of matrices: a grouped convolution with a dynamic batch cannot be exported.
        columns = x.flatten(2) if side == 1 else F.unfold(x, side, padding=side // 2)
        masks = (weights.flatten(2) @ columns).unflatten(2, tuple(size))
        masks = resize(masks, scale_factor=2) if self.half_size_masks else masks
        return masks if mask_shape is None else resize(masks, mask_shape)

    def _to_conv_shape(self, kernels: Tensor) -> Tensor:
        """(N, P, k * k, C) -> (N, P, C, k, k)."""
        return kernels.mT.unflatten(3, (self.conv_kernel_size, self.conv_kernel_size))

    def _initialise(self, kernel_init: bool) -> None:
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        if kernel_init:
            nn.init.normal_(self.fc_mask.weight, std=0.01)
