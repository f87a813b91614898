from __future__ import annotations

import pytest
import torch

from segkernel.errors import ConfigError
from segplug_backbones import MAE, BEiT
from segplug_backbones.beit import relative_position_index

SMALL = {"img_size": 64, "embed_dims": 8, "num_layers": 3, "num_heads": 2}


def test_relative_positions_are_the_same_for_equal_ways():
    index = relative_position_index(2, 3)
    assert index.shape == (7, 7)
    assert index[1, 2] == index[2, 3] == index[4, 5]  # one to the right
    assert index[1, 2] != index[2, 1]
    assert index[1:, 1:].max() == 14  # 3 x 5 ways
    assert (index[0, 0], index[0, 1], index[1, 0]) == (17, 15, 16)


def test_beit_biases_queries_and_values_only():
    keys = BEiT(**SMALL).state_dict().keys()
    assert {"layers.0.attn.q_bias", "layers.0.attn.v_bias", "layers.0.gamma_1"} <= keys
    assert "layers.0.attn.qkv.bias" not in keys
    assert "layers.0.attn.q_bias" not in BEiT(**SMALL, qv_bias=False).state_dict()


def test_mae_biases_keys_too_and_adds_positions():
    shapes = {key: tuple(value.shape) for key, value in MAE(**SMALL).state_dict().items()}
    assert shapes["layers.0.attn.qkv.bias"] == (24,)
    assert shapes["pos_embed"] == (1, 17, 8)
    assert shapes["layers.0.attn.relative_position_bias_table"] == (7 * 7 + 3, 2)


@pytest.mark.parametrize("cls", [BEiT, MAE])
def test_resampling_to_the_same_size_changes_nothing(cls, monkeypatch):
    backbone = cls(**SMALL).eval()
    for layer in backbone.layers:
        torch.nn.init.normal_(layer.attn.relative_position_bias_table)
    images = torch.rand(1, 3, 64, 64)
    plain = backbone(images)[0]
    monkeypatch.setattr("segplug_backbones.beit.is_tracing", lambda: True)
    torch.testing.assert_close(backbone(images)[0], plain)


@pytest.mark.parametrize("cls", [BEiT, MAE])
def test_other_sizes_learn_as_well(cls):
    backbone = cls(**SMALL, drop_path_rate=0.1, attn_drop_rate=0.1).train()
    (features,) = backbone(torch.rand(2, 3, 65, 97))
    assert features.shape == (2, 8, 4, 6)
    features.square().mean().backward()
    assert all(p.grad is not None for p in backbone.parameters())


def test_windows_need_not_be_square():
    backbone = BEiT(**{**SMALL, "img_size": (32, 96)}).eval()
    assert backbone(torch.rand(1, 3, 32, 96))[0].shape == (1, 8, 2, 6)


def test_the_scale_of_branches_starts_as_asked():
    assert torch.equal(BEiT(**SMALL, init_values=0.5).layers[1].gamma_2, torch.full((8,), 0.5))


def test_layers_are_counted_from_the_embeddings():
    backbone = MAE(**SMALL, final_norm=True)
    names = ["cls_token", "pos_embed", "layers.0.gamma_1", "layers.2.attn.proj.weight", "ln1.weight"]
    assert [backbone.layer_of(name, 3) for name in names] == [0, 0, 1, 3, None]


def test_a_layer_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match="maps 0 to 2"):
        MAE(**SMALL, out_indices=[3])


@pytest.mark.parametrize("cls", [BEiT, pytest.param(MAE, marks=pytest.mark.slow)])
def test_export_takes_images_of_any_size(cls):
    backbone = cls(**{**SMALL, "num_layers": 1, "out_indices": [0]}).eval()
    torch.nn.init.normal_(backbone.layers[0].attn.relative_position_bias_table)
    height, width = torch.export.Dim("h", min=2, max=20) * 16, torch.export.Dim("w", min=2, max=20) * 16
    program = torch.export.export(backbone, (torch.rand(1, 3, 64, 96),), dynamic_shapes=({2: height, 3: width},))
    for size in ((96, 48), (64, 64)):
        images = torch.rand(1, 3, *size)
        torch.testing.assert_close(backbone(images)[0], program.module()(images)[0])
