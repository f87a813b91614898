"""Attention from the pixels of one feature map to those of another one (Vaswani et al., 2017).

OCRNet, ANN, ISANet and DANet are built on it. State-dict keys are MMSegmentation's: ``key_project``, ``query_project``,
``value_project`` and ``out_project``.
"""

from __future__ import annotations

from torch import Tensor, nn

from segkernel.errors import ConfigError, Problem
from segkernel.nn import ConvModule, LayerConfig, nchw_to_nlc, nlc_to_nchw, single_head_attention


class SelfAttentionBlock(nn.Module):
    """(N, query_in_channels, h, w) and (N, key_in_channels, H, W) -> (N, out_channels, h, w).

    With ``query_downsample`` the result has the size of the downsampled query.

    Args:
        key_in_channels: Channels of the map that keys and values come from.
        query_in_channels: Channels of the map that queries come from.
        channels: Channels of queries and keys, and with ``with_out`` of values.
        out_channels: Output channels.
        share_key_query: Keys and queries share one projection.
        query_downsample: Applied to the queries.
        key_downsample: Applied to keys and values; may return a row of pixels, (N, C, L).
        key_query_num_convs: 1x1 convolutions in the projections of keys and queries.
        value_out_num_convs: 1x1 convolutions in the projections of values and output.
        key_query_norm: The convolutions of keys and queries have norm and activation.
        value_out_norm: The convolutions of values and output have norm and activation.
        matmul_norm: Divide the logits by the square root of ``channels``.
        with_out: Project the output from ``channels`` to ``out_channels``.
        conv_cfg: Type of the convolutions; None is ``Conv2d``.
        norm_cfg: Type of the norms.
        act_cfg: Type of the activations.

    Raises:
        ConfigError: Keys and queries of different channels cannot share a projection.
    """

    def __init__(
        self,
        key_in_channels: int,
        query_in_channels: int,
        channels: int,
        out_channels: int,
        share_key_query: bool,
        query_downsample: nn.Module | None,
        key_downsample: nn.Module | None,
        key_query_num_convs: int,
        value_out_num_convs: int,
        key_query_norm: bool,
        value_out_norm: bool,
        matmul_norm: bool,
        with_out: bool,
        conv_cfg: LayerConfig | None,
        norm_cfg: LayerConfig | None,
        act_cfg: LayerConfig | None,
    ) -> None:
        super().__init__()
        if share_key_query and key_in_channels != query_in_channels:
            message = f"keys of {key_in_channels} channels and queries of {query_in_channels} cannot share a projection"
            raise ConfigError(Problem(message, "share_key_query"))
        self._layers = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        key_query, value_out = (key_query_num_convs, key_query_norm), (value_out_num_convs, value_out_norm)
        self.key_project = self.project(key_in_channels, channels, *key_query)
        self.query_project = (
            self.key_project if share_key_query else self.project(query_in_channels, channels, *key_query)
        )
        self.value_project = self.project(key_in_channels, channels if with_out else out_channels, *value_out)
        self.out_project = self.project(channels, out_channels, *value_out) if with_out else None
        # As in MMSegmentation, an output projection without norm starts at zero: the block adds nothing at first.
        if isinstance(self.out_project, nn.Conv2d):
            nn.init.zeros_(self.out_project.weight)
            nn.init.zeros_(self.out_project.bias)  # type: ignore[arg-type]
        self.query_downsample, self.key_downsample = query_downsample, key_downsample
        self.scale = channels**-0.5 if matmul_norm else 1.0

    def project(self, in_channels: int, channels: int, num_convs: int = 1, with_norm: bool = True) -> nn.Module:
        """Return 1x1 convolutions, (N, in_channels, h, w) -> (N, channels, h, w)."""
        widths = [in_channels, *[channels] * (num_convs - 1)]
        if with_norm:
            convs: list[nn.Module] = [ConvModule(width, channels, 1, **self._layers) for width in widths]  # type: ignore[arg-type]
        else:
            convs = [nn.Conv2d(width, channels, 1) for width in widths]
        return convs[0] if num_convs == 1 else nn.Sequential(*convs)

    def forward(self, query_feats: Tensor, key_feats: Tensor) -> Tensor:
        query, key, value = self.query_project(query_feats), self.key_project(key_feats), self.value_project(key_feats)
        if self.query_downsample is not None:
            query = self.query_downsample(query)
        if self.key_downsample is not None:
            key, value = self.key_downsample(key), self.key_downsample(value)
        attended = single_head_attention(nchw_to_nlc(query), nchw_to_nlc(key), nchw_to_nlc(value), self.scale)
        attended = nlc_to_nchw(attended, (query.shape[2], query.shape[3]))
        return attended if self.out_project is None else self.out_project(attended)
