"""Non-local block: attention from every pixel to every other one.

Non-local Neural Networks, Wang et al., 2018 (https://arxiv.org/abs/1711.07971).
State-dict keys are MMCV's: ``g``, ``theta``, ``phi``, ``concat_project``, ``conv_out``.
"""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from segkernel.annotations import NonNegative, PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.nn.attention import single_head_attention
from segkernel.nn.conv_module import ConvModule
from segkernel.nn.embed import nchw_to_nlc, nlc_to_nchw
from segkernel.nn.init import normal_init
from segkernel.nn.layers import LayerConfig

NonLocalMode = Literal["gaussian", "embedded_gaussian", "dot_product", "concatenation"]


class NonLocal2d(nn.Module):
    """(N, in_channels, h, w) -> the same shape: the input plus a weighted mean of all pixels, equation 6 of the paper.

    Args:
        in_channels: Channels of the feature map.
        reduction: The embeddings have ``in_channels / reduction`` channels.
        use_scale: Divide the products of ``embedded_gaussian`` by the square root of their length.
        conv_cfg: Type of the convolutions.
        norm_cfg: Norm of the output convolution; None is no norm.
        mode: The pairwise function f, section 3.2 of the paper.
        sub_sample: Max-pool keys and values to half the size.
        zeros_init: Start as the identity.
        std: Standard deviation of the initial weights.

    Raises:
        ConfigError: ``mode`` is unknown.
    """

    abbreviation: ClassVar[str] = "nonlocal_block"

    def __init__(
        self,
        in_channels: PositiveInt,
        reduction: PositiveInt = 2,
        use_scale: bool = True,
        conv_cfg: LayerConfig | None = {"type": "Conv2d"},  # noqa: B006  never changed
        norm_cfg: LayerConfig | None = None,
        mode: NonLocalMode = "embedded_gaussian",
        sub_sample: bool = False,
        zeros_init: bool = True,
        std: NonNegative = 0.01,
    ) -> None:
        super().__init__()
        if mode not in get_args(NonLocalMode):
            raise ConfigError(Problem(f"{mode!r} is not one of {', '.join(get_args(NonLocalMode))}", "mode"))
        self.mode, self.use_scale = mode, use_scale
        self.inter_channels = inter = max(in_channels // reduction, 1)
        self.g: nn.Module = ConvModule(in_channels, inter, 1, conv_cfg=conv_cfg, act_cfg=None)
        self.conv_out = ConvModule(inter, in_channels, 1, conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=None)
        self.theta: nn.Module = nn.Identity()
        self.phi: nn.Module = nn.Identity()
        if mode != "gaussian":
            self.theta = ConvModule(in_channels, inter, 1, conv_cfg=conv_cfg, act_cfg=None)
            self.phi = ConvModule(in_channels, inter, 1, conv_cfg=conv_cfg, act_cfg=None)
        if mode == "concatenation":
            self.concat_project = ConvModule(2 * inter, 1, 1, bias=False)
        self._initialise(std, zeros_init)
        if sub_sample:
            self.g = nn.Sequential(self.g, nn.MaxPool2d(2))
            self.phi = nn.MaxPool2d(2) if mode == "gaussian" else nn.Sequential(self.phi, nn.MaxPool2d(2))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = nchw_to_nlc(self.theta(x)), nchw_to_nlc(self.phi(x)), nchw_to_nlc(self.g(x))
        attended = nlc_to_nchw(self.attend(query, key, value), (x.shape[2], x.shape[3]))
        return x + self.conv_out(attended)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return the weighted means (N, L, C) for queries (N, L, D), keys (N, S, D) and values (N, S, C)."""
        if self.mode == "dot_product":
            # Without a softmax between the products the small one, D x C, can come first.
            return query @ (key.mT @ value / key.shape[1])
        if self.mode == "concatenation":
            return self._concatenation_weights(query, key) @ value
        scale = query.shape[2] ** -0.5 if self.mode == "embedded_gaussian" and self.use_scale else 1.0
        return single_head_attention(query, key, value, scale)

    def _concatenation_weights(self, query: Tensor, key: Tensor) -> Tensor:
        """Return relu(w^T [query, key]) / S for each pair, (N, L, S), without storing the concatenated pairs.

        The product with w splits into one with the query and one with the key.
        """
        of_query, of_key = self.concat_project.conv.weight.flatten().chunk(2)  # type: ignore[operator]
        return (query @ of_query[:, None] + (key @ of_key[:, None]).mT).relu() / key.shape[1]

    def _initialise(self, std: float, zeros_init: bool) -> None:
        for module in (self.g, self.theta, self.phi):
            if isinstance(module, ConvModule):
                normal_init(module.conv, std)
        last = self.conv_out.conv if self.conv_out.norm is None else self.conv_out.norm
        if not zeros_init:
            normal_init(last, std)
            return
        nn.init.zeros_(last.weight)  # type: ignore[arg-type]
        if isinstance(last.bias, torch.Tensor):
            nn.init.zeros_(last.bias)
