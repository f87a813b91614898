"""Blocks in which pixels see one another."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segkernel.errors import ConfigError
from segkernel.nn import ContextBlock, NonLocal2d, SelfAttentionBlock

MODES = ("gaussian", "embedded_gaussian", "dot_product", "concatenation")


def block(**more) -> SelfAttentionBlock:
    arguments = {
        "key_in_channels": 6, "query_in_channels": 4, "channels": 8, "out_channels": 5, "share_key_query": False,
        "query_downsample": None, "key_downsample": None, "key_query_num_convs": 2, "value_out_num_convs": 1,
        "key_query_norm": True, "value_out_norm": False, "matmul_norm": True, "with_out": True, "conv_cfg": None,
        "norm_cfg": {"type": "BN"}, "act_cfg": {"type": "ReLU"},
    }  # fmt: skip
    return SelfAttentionBlock(**{**arguments, **more}).eval()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def rows(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(2).transpose(1, 2)


@torch.no_grad()
def test_attention_is_the_softmax_of_products_times_values() -> None:
    module, x, y = block(with_out=False), torch.randn(2, 4, 3, 5), torch.randn(2, 6, 2, 7)
    query, key, value = rows(module.query_project(x)), rows(module.key_project(y)), rows(module.value_project(y))
    expected = (query @ key.transpose(1, 2) / 8**0.5).softmax(2) @ value
    torch.testing.assert_close(rows(module(x, y)), expected)


@torch.no_grad()
def test_a_downsampled_query_gives_a_smaller_map() -> None:
    module = block(query_downsample=nn.MaxPool2d(2))
    assert module(torch.randn(2, 4, 6, 9), torch.randn(2, 6, 3, 3)).shape == (2, 5, 3, 4)


@torch.no_grad()
def test_a_bare_last_projection_starts_at_zero() -> None:
    assert not block()(torch.randn(2, 4, 3, 5), torch.randn(2, 6, 2, 7)).any()


def test_a_shared_projection_needs_equal_channels() -> None:
    with pytest.raises(ConfigError, match="share_key_query"):
        block(share_key_query=True)


def plain_weights(module: NonLocal2d, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Return (N, L, S) as the paper writes it, pair by pair."""
    products = query @ key.transpose(1, 2)
    if module.mode == "dot_product":
        return products / key.shape[1]
    if module.mode == "concatenation":
        length, width = query.shape[1], key.shape[1]
        pairs = torch.cat([query[:, :, None].expand(-1, -1, width, -1), key[:, None].expand(-1, length, -1, -1)], 3)
        return module.concat_project(pairs.permute(0, 3, 1, 2))[:, 0] / width
    scaled = products / query.shape[2] ** 0.5 if module.mode == "embedded_gaussian" else products
    return scaled.softmax(2)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sub_sample", [False, True])
@torch.no_grad()
def test_non_local_blocks_are_what_the_paper_writes(mode: str, sub_sample: bool) -> None:
    module, x = NonLocal2d(8, mode=mode, sub_sample=sub_sample, zeros_init=False, std=0.5), torch.randn(2, 8, 4, 6)
    value = rows(module.g(x))
    found = plain_weights(module, rows(module.theta(x)), rows(module.phi(x))) @ value
    expected = x + module.conv_out(found.transpose(1, 2).unflatten(2, (4, 6)))
    torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize("norm_cfg", [None, {"type": "BN"}])
@torch.no_grad()
def test_a_non_local_block_starts_as_the_identity(norm_cfg: dict | None) -> None:
    x = torch.randn(2, 8, 4, 6)
    torch.testing.assert_close(NonLocal2d(8, norm_cfg=norm_cfg)(x), x)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="mode"):
        NonLocal2d(8, mode="cosine")


@pytest.mark.parametrize("pooling_type", ["att", "avg"])
@torch.no_grad()
def test_a_context_block_acts_on_all_pixels_alike(pooling_type: str) -> None:
    module, x = ContextBlock(8, 0.5, pooling_type, ["channel_mul", "channel_add"]), torch.randn(2, 8, 4, 6)
    torch.testing.assert_close(module(x), x / 2)  # at first: the sigmoid of 0, and nothing added
    module.channel_add_conv[-1].bias.fill_(3.0)
    torch.testing.assert_close(module(x), x / 2 + 3)


@torch.no_grad()
def test_average_pooling_is_the_mean() -> None:
    x = torch.randn(2, 8, 4, 6)
    torch.testing.assert_close(ContextBlock(8, 0.5, "avg").pool(x), x.mean((2, 3), keepdim=True))


@pytest.mark.parametrize("wrong", [{"pooling_type": "max"}, {"fusion_types": ()}, {"fusion_types": ("add",)}])
def test_an_unknown_pooling_or_fusion_is_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ContextBlock(8, 0.5, **wrong)
