"""The layer of vision transformers, and position embeddings of another size."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from segkernel.nn import TransformerEncoderLayer, build_activation, resize_pos_embed
from segkernel.nn import embed as embed_module


def test_a_layer_has_mmsegmentations_keys():
    keys = {key.removesuffix(".weight").removesuffix(".bias") for key in TransformerEncoderLayer(8, 2, 16).state_dict()}
    assert keys == {
        "ln1", "attn.attn.in_proj_weight", "attn.attn.in_proj_bias", "attn.attn.out_proj", "ln2",
        "ffn.layers.0.0", "ffn.layers.1",
    }  # fmt: skip


def test_a_layer_is_two_normalised_branches():
    layer = TransformerEncoderLayer(8, 2, 16).eval()
    x = torch.rand(2, 5, 8)
    middle = x + layer.attn.attn(*[F.layer_norm(x, (8,))] * 3)
    hidden = F.gelu(layer.ffn.layers[0][0](F.layer_norm(middle, (8,))))
    torch.testing.assert_close(layer(x), middle + layer.ffn.layers[1](hidden))


def test_recomputing_a_layer_changes_no_gradient():
    plain, frugal = TransformerEncoderLayer(8, 2, 16), TransformerEncoderLayer(8, 2, 16, with_cp=True)
    frugal.load_state_dict(plain.state_dict())
    x = torch.rand(2, 5, 8, requires_grad=True)
    for layer in (plain, frugal):
        layer(x).square().sum().backward()
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(plain.parameters(), frugal.parameters()))


def test_the_gelu_of_clip():
    x = torch.linspace(-3, 3, 7)
    torch.testing.assert_close(build_activation({"type": "QuickGELU"})(x), x * torch.sigmoid(1.702 * x))


@pytest.mark.parametrize("extra", [0, 1, 2])
def test_positions_are_resampled_except_for_extra_tokens(extra):
    positions = torch.rand(1, extra + 12, 4)
    resized = resize_pos_embed(positions, (3, 4), (5, 7), "bicubic", extra_tokens=extra)
    assert torch.equal(resized[:, :extra], positions[:, :extra])
    grid = positions[:, extra:].transpose(1, 2).reshape(1, 4, 3, 4)
    expected = F.interpolate(grid, (5, 7), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    torch.testing.assert_close(resized[:, extra:], expected)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "nearest"])
def test_positions_of_the_same_size_are_unchanged_also_in_exports(mode, monkeypatch):
    positions = torch.rand(1, 13, 4)
    assert resize_pos_embed(positions, (3, 4), (3, 4), mode) is positions
    monkeypatch.setattr(embed_module, "is_tracing", lambda: True)
    torch.testing.assert_close(resize_pos_embed(positions, (3, 4), (3, 4), mode), positions)
