"""The attention block of OCRNet, ANN, ISANet and DANet."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segkernel.errors import ConfigError
from segplug_heads.parts.self_attention import SelfAttentionBlock


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
