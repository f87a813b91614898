"""Blocks with global context: non-local and global context blocks."""

from __future__ import annotations

import pytest
import torch

from segkernel.errors import ConfigError
from segkernel.nn import ContextBlock, NonLocal2d

MODES = ("gaussian", "embedded_gaussian", "dot_product", "concatenation")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def rows(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(2).transpose(1, 2)


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
def test_non_local_blocks_equal_the_equations_of_the_paper(mode: str, sub_sample: bool) -> None:
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
def test_a_context_block_acts_equally_on_all_pixels(pooling_type: str) -> None:
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
