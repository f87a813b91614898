from __future__ import annotations

import pytest
import torch

from segkernel.errors import ConfigError
from segplug_backbones import VisionTransformer

SMALL = {"img_size": 64, "embed_dims": 8, "num_layers": 3, "num_heads": 2}


def small(**more):
    return VisionTransformer(**{**SMALL, **more})


def test_base_has_the_published_number_of_parameters():
    with torch.device("meta"):
        backbone = VisionTransformer(patch_bias=True, final_norm=True)
    assert sum(p.numel() for p in backbone.parameters()) == 85_798_656  # ViT-B/16 without its classifier


def test_clip_s_names():
    clip = small(pre_norm=True, final_norm=True, act_cfg={"type": "QuickGELU"})
    keys = clip.state_dict().keys()
    assert {"ln_pre.weight", "ln1.weight", "patch_embed.projection.weight"} <= keys
    assert "patch_embed.projection.bias" not in keys


def test_whole_patches_are_padded_or_cut():
    images = torch.rand(1, 3, 65, 97)
    assert small()(images)[0].shape[2:] == (5, 7)
    assert small(patch_pad=0)(images)[0].shape[2:] == (4, 6)


def test_embedded_patches_and_class_tokens_can_be_had():
    backbone = small(out_indices=(0, 2), out_origin=True, output_cls_token=True)
    outputs = backbone(torch.rand(2, 3, 64, 96))
    assert backbone.channels == (8, 8, 8)
    assert backbone.strides == (16, 16, 16)
    assert [(x.shape, token.shape) for x, token in outputs] == [((2, 8, 4, 6), (2, 8))] * 3


def test_positions_of_equal_number_but_another_shape_are_resampled():
    backbone = small(interpolate_mode="nearest").eval()
    torch.nn.init.normal_(backbone.pos_embed)
    images = torch.zeros(1, 3, 32, 128)
    stretched = backbone(images)[0]
    backbone.grid = (2, 8)  # as if the 16 positions had been learnt for this shape
    assert not torch.allclose(stretched, backbone(images)[0])


def test_without_the_class_token_it_takes_no_part():
    backbone = small(with_cls_token=False).eval()
    images = torch.rand(1, 3, 64, 64)
    before = backbone(images)[0]
    torch.nn.init.normal_(backbone.cls_token)
    assert torch.equal(before, backbone(images)[0])


def test_all_but_the_excluded_parameters_freeze():
    backbone = small(frozen_exclude=["pos_embed", "layers.2"])
    learning = {name.split(".ln")[0].split(".at")[0].split(".ff")[0] for name, p in backbone.named_parameters()
                if p.requires_grad}  # fmt: skip
    assert learning == {"pos_embed", "layers.2"}
    assert all(p.requires_grad for p in small().parameters())


def test_drop_path_grows_from_zero_to_its_rate():
    rates = [layer.ffn.dropout_layer.drop_prob for layer in small(drop_path_rate=0.2).layers]
    assert rates == pytest.approx([0, 0.1, 0.2])


def test_recomputing_changes_no_gradient():
    plain, frugal = small().train(), small(with_cp=True).train()
    frugal.load_state_dict(plain.state_dict())
    images = torch.rand(2, 3, 64, 80)
    for backbone in (plain, frugal):
        sum(m.square().mean() for m in backbone(images)).backward()
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(plain.parameters(), frugal.parameters()))


def test_layers_are_counted_from_the_embeddings():
    backbone = small(pre_norm=True, final_norm=True)
    names = ["pos_embed", "patch_embed.projection.weight", "ln_pre.bias", "layers.0.ln1.weight", "layers.2.ln2.bias"]
    assert [backbone.layer_of(name, 3) for name in names] == [0, 0, 0, 1, 3]
    assert backbone.layer_of("ln1.weight", 3) is None
    with pytest.raises(ConfigError, match="no numbered stages"):
        backbone.layer_of("pos_embed", 3, stage_wise=True)


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ({"out_indices": (0, 3)}, "out_indices"),
        ({"out_indices": ()}, "out_indices"),
        ({"img_size": (64, 64, 3)}, "img_size"),
        ({"with_cls_token": False, "output_cls_token": True}, "output_cls_token"),
        ({"num_heads": 3}, "num_heads"),
    ],
)
def test_bad_arguments(arguments, path):
    with pytest.raises(ConfigError) as raised:
        small(**arguments)
    assert raised.value.problems[0].path == path


def test_export_takes_images_of_any_size():
    backbone = small(out_indices=(0, 2)).eval()
    torch.nn.init.normal_(backbone.pos_embed)
    height, width = torch.export.Dim("h", min=2, max=20) * 16, torch.export.Dim("w", min=2, max=20) * 16
    program = torch.export.export(backbone, (torch.rand(1, 3, 64, 96),), dynamic_shapes=({2: height, 3: width},))
    images = torch.rand(1, 3, 96, 48)
    for ours, exported in zip(backbone(images), program.module()(images)):
        torch.testing.assert_close(ours, exported)
