"""Blocks: convolutions with norm and activation, pooling, resizing, patches, attention."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkernel.errors import ConfigError
from segkernel.nn import (
    FFN,
    AdaptiveAvgPool2d,
    AdaptivePadding,
    ConvModule,
    DepthwiseSeparableConvModule,
    DotProductAttention,
    MultiheadAttention,
    PatchEmbed,
    adaptive_avg_pool,
    adaptive_max_pool,
    nchw_to_nlc,
    nlc_to_nchw,
    resize,
)
from segkernel.nn import pool as pool_module

BN = {"type": "BN"}


def test_conv_has_a_bias_only_without_norm() -> None:
    assert list(ConvModule(2, 3, 1).state_dict()) == ["conv.weight", "conv.bias"]
    assert "conv.bias" not in ConvModule(2, 3, 1, norm_cfg=BN).state_dict()
    assert "conv.bias" in ConvModule(2, 3, 1, norm_cfg=BN, bias=True).state_dict()


def test_norm_before_the_convolution_has_its_input_channels() -> None:
    block = ConvModule(2, 3, 1, norm_cfg=BN, order=("norm", "act", "conv"))
    assert block.bn.num_features == 2
    x = torch.randn(2, 2, 4, 4)
    assert torch.equal(block(x), block.conv(F.relu(block.bn(x))))


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
def test_every_padding_keeps_the_size(mode: str) -> None:
    assert ConvModule(2, 3, 3, padding=1, padding_mode=mode)(torch.randn(1, 2, 5, 6)).shape == (1, 3, 5, 6)


def test_reflected_border() -> None:
    block = ConvModule(1, 1, 3, padding=1, padding_mode="reflect", act_cfg=None)
    x = torch.randn(1, 1, 4, 5)
    assert torch.equal(block(x), block.conv(F.pad(x, (1, 1, 1, 1), mode="reflect")))


def test_spectral_norm_bounds_the_kernel() -> None:
    block = ConvModule(4, 4, 1, with_spectral_norm=True)
    for _ in range(30):
        block(torch.randn(1, 4, 2, 2))
    assert torch.linalg.matrix_norm(block.conv.weight.flatten(1), 2).item() == pytest.approx(1.0, abs=0.05)


def test_wrong_order_is_refused() -> None:
    with pytest.raises(ConfigError, match="order"):
        ConvModule(2, 3, 1, order=("conv", "conv", "act"))


def test_separable_parts_can_differ() -> None:
    block = DepthwiseSeparableConvModule(4, 6, 3, padding=1, norm_cfg=BN, dw_act_cfg=None, pw_norm_cfg=None)
    assert block.depthwise_conv.activate is None
    assert block.pointwise_conv.norm is None
    assert isinstance(block.pointwise_conv.activate, nn.ReLU)
    assert block.depthwise_conv.conv.groups == 4


@pytest.mark.parametrize("size", [1, 2, 3, 6, 7, (3, None), (None, 2), (2, 5)])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 2, 13, 7), (1, 1, 6, 6)])
def test_pooling_by_matrices_equals_torchs(
    size: object, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(shape)
    expected = F.adaptive_avg_pool2d(x, size)  # type: ignore[arg-type]
    assert torch.equal(adaptive_avg_pool(x, size), expected)  # type: ignore[arg-type]
    monkeypatch.setattr(pool_module, "is_tracing", lambda: True)
    assert torch.allclose(adaptive_avg_pool(x, size), expected, atol=1e-6)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (4, 3), (9, 8)])
def test_max_pooling_by_bins_equals_torchs(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 3, 7, 6)
    expected = F.adaptive_max_pool2d(x, size)
    assert torch.equal(adaptive_max_pool(x, size), expected)
    monkeypatch.setattr(pool_module, "is_tracing", lambda: True)
    assert torch.equal(adaptive_max_pool(x, size), expected)


def test_exported_pooling_is_correct_at_other_sizes() -> None:
    sides = {2: torch.export.Dim("height", min=4, max=64), 3: torch.export.Dim("width", min=4, max=64)}
    program = torch.export.export(AdaptiveAvgPool2d(3), (torch.randn(1, 2, 8, 9),), dynamic_shapes=(sides,))
    for size in ((8, 9), (13, 31), (5, 4)):
        x = torch.randn(1, 2, *size)
        assert torch.allclose(program.module()(x), F.adaptive_avg_pool2d(x, 3), atol=1e-6)


@pytest.mark.parametrize("align_corners", [False, True])
def test_resize_equals_torchs(align_corners: bool) -> None:
    x = torch.randn(1, 2, 5, 7)
    expected = F.interpolate(x, (9, 4), mode="bilinear", align_corners=align_corners)
    assert torch.equal(resize(x, (9, 4), align_corners=align_corners), expected)
    assert resize(x, scale_factor=2).shape == (1, 2, 10, 14)
    assert resize(x, (3, 3), mode="nearest", align_corners=align_corners).shape == (1, 2, 3, 3)


def test_tokens_and_back() -> None:
    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(nlc_to_nchw(nchw_to_nlc(x), (4, 5)), x)


@pytest.mark.parametrize(("kind", "left"), [("corner", 0), ("same", 1)])
def test_padding_covers_every_pixel(kind: str, left: int) -> None:
    padded = AdaptivePadding(kernel_size=4, stride=4, padding=kind)(torch.ones(1, 1, 6, 8))  # type: ignore[arg-type]
    assert padded.shape == (1, 1, 8, 8)
    assert padded[0, 0, 0, 0] == (0 if left else 1)


def test_patches_of_an_odd_image() -> None:
    tokens, size = PatchEmbed(3, 8, kernel_size=4, norm_cfg={"type": "LN"})(torch.randn(2, 3, 10, 13))
    assert size == (3, 4)
    assert tokens.shape == (2, 12, 8)


def test_patches_export_with_any_size() -> None:
    sides = {2: torch.export.Dim("height", min=8, max=64), 3: torch.export.Dim("width", min=8, max=64)}
    module = PatchEmbed(3, 8, kernel_size=4)
    program = torch.export.export(module, (torch.randn(1, 3, 16, 17),), dynamic_shapes=(sides,))
    x = torch.randn(1, 3, 21, 10)
    assert torch.allclose(program.module()(x)[0], module(x)[0], atol=1e-6)


@pytest.mark.parametrize("bias", [True, False])
def test_attention_equals_torchs_with_the_same_keys(bias: bool) -> None:
    theirs = nn.MultiheadAttention(12, 3, bias=bias, batch_first=True)
    ours = DotProductAttention(12, 3, bias=bias)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    query, key, value = torch.randn(2, 5, 12), torch.randn(2, 7, 12), torch.randn(2, 7, 12)
    assert torch.allclose(ours(query, key, value), theirs(query, key, value)[0], atol=1e-6)


def test_masked_keys_are_not_attended_to() -> None:
    attention = DotProductAttention(8, 2)
    query, key = torch.randn(1, 3, 8), torch.randn(1, 4, 8)
    mask = torch.tensor([[True, True, False, True]])
    other = key.clone()
    other[:, 2] = 9.0
    assert torch.allclose(attention(query, key, key, mask), attention(query, other, other, mask), atol=1e-6)


def test_heads_that_do_not_divide_the_channels_are_refused() -> None:
    with pytest.raises(ConfigError, match="num_heads"):
        DotProductAttention(10, 3)


def test_residual_is_the_given_identity() -> None:
    block = MultiheadAttention(8, 2)
    x, identity = torch.randn(1, 3, 8), torch.randn(1, 3, 8)
    assert torch.allclose(block(x, identity=identity) - identity, block(x) - x, atol=1e-5)


def test_feed_forward_keys() -> None:
    keys = set(FFN(8, 16, num_fcs=3).state_dict())
    assert keys == {f"layers.{name}.{leaf}" for name in ("0.0", "1.0", "2") for leaf in ("weight", "bias")}


def test_feed_forward_without_identity() -> None:
    block: nn.Module = FFN(8, 16, add_identity=False)
    x: Tensor = torch.randn(2, 3, 8)
    assert torch.equal(block(x), block.layers(x))
    with pytest.raises(ConfigError, match="num_fcs"):
        FFN(8, 16, num_fcs=1)


def test_blocks_build_without_memory() -> None:
    with torch.device("meta"):
        modules = [ConvModule(2, 3, 1, norm_cfg=BN), MultiheadAttention(8, 2), FFN(8, 16), PatchEmbed(3, 8)]
    assert all(parameter.is_meta for module in modules for parameter in module.parameters())
