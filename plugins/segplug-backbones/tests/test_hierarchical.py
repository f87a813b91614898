"""Swin, Twins and MSCAN: published sizes, windows, freezing, and arguments that do not fit."""

from __future__ import annotations

import pytest
import torch

import segplug_backbones
from segkernel.errors import ConfigError
from segplug_backbones import MSCAN, PCPVT, SVT, Hiera, SAM2Hiera, SwinTransformer, SwinTransformerV2, ViTSAM
from segplug_backbones.hiera import _row_by_row
from segplug_backbones.twins import LocallyGroupedSelfAttention
from segplug_backbones.windows import (
    count_windows,
    crop_to_size,
    pad_to_windows,
    window_attention_mask,
    window_partition,
    window_reverse,
)


def swin(**more):
    return SwinTransformer(**{"embed_dims": 8, "depths": (2, 1), "num_heads": (1, 2), "window_size": 4, **more})


def small_swin(**more):
    return swin(**{"strides": (4, 2), "out_indices": (0, 1), **more})


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("swin_tiny", 27.52),
        ("swin_small", 48.84),
        ("swin_base", 86.75),
        ("swin_large", 195.00),
        ("pcpvt_small", 23.59),
        ("pcpvt_base", 43.31),
        ("pcpvt_large", 60.48),
        ("svt_small", 23.55),
        ("svt_base", 55.30),
        ("svt_large", 98.25),
        ("mscan_tiny", 3.90),
        ("mscan_small", 13.45),
        ("mscan_base", 26.28),
        ("mscan_large", 44.64),
    ],
)
def test_variants_have_the_published_number_of_parameters(name, millions):
    with torch.device("meta"):
        backbone = getattr(segplug_backbones, name)()
    assert sum(p.numel() for p in backbone.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)


@pytest.mark.parametrize("size", [(8, 12), (9, 5), (3, 1)])
def test_windows_come_together_again(size):
    grid = torch.rand(2, *size, 3)
    counts = count_windows(size, 4)
    windows = window_partition(pad_to_windows(grid, counts, 4), counts, 4)
    assert windows.shape == (2, counts[0] * counts[1], 16, 3)
    assert torch.equal(windows[0, 0, 0], grid[0, 0, 0])
    assert torch.equal(crop_to_size(window_reverse(windows, counts, 4), size), grid)


def test_tokens_of_different_regions_are_masked():
    regions = torch.tensor([[0, 1], [1, 1]])
    mask = window_attention_mask(regions, (1, 1), 2, -100.0, torch.float32)
    assert (mask[0, 0] == torch.tensor([0.0, -100, -100, -100])).all()
    assert (mask[0, 3] == torch.tensor([-100.0, 0, 0, 0])).all()


def test_shifted_windows_see_no_token_from_the_other_side():
    attention = small_swin(drop_path_rate=0.0).stages[0].blocks[1].attn.eval()
    tokens = torch.rand(1, 64, 8)
    changed = tokens.clone()
    changed[:, 0] += 1.0  # the upper left token shares a window with those of the lower right after the shift
    difference = (attention(changed, (8, 8)) - attention(tokens, (8, 8))).abs().amax(2).view(8, 8)
    assert difference[0, 0] > 1e-4
    assert difference[6:, 6:].max() < 1e-6


def test_position_embeddings_fit_images_of_any_size():
    backbone = small_swin(use_abs_pos_embed=True, pretrain_img_size=(32, 64)).eval()
    assert backbone.absolute_pos_embed.shape == (1, 8 * 16, 8)
    assert backbone(torch.rand(1, 3, 40, 40))[0].shape == (1, 8, 10, 10)


def test_frozen_stages_neither_train_nor_drop():
    backbone = small_swin(frozen_stages=1, drop_rate=0.5, use_abs_pos_embed=True).train()
    trainable = {name.split(".")[0] for name, p in backbone.named_parameters() if p.requires_grad}
    assert trainable == {"stages", "norm1"}
    assert not any(p.requires_grad for p in backbone.stages[0].parameters())
    assert not backbone.drop_after_pos.training
    assert backbone.stages[1].training


@pytest.mark.parametrize("build", [small_swin], ids=["swin"])
def test_recomputing_changes_no_gradient(build):
    plain, frugal = build(drop_path_rate=0.0), build(drop_path_rate=0.0, with_cp=True)
    frugal.load_state_dict(plain.state_dict())
    images = torch.rand(2, 3, 32, 32)
    for backbone in (plain, frugal):
        sum(m.square().mean() for m in backbone(images)).backward()
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(plain.parameters(), frugal.parameters()))


def test_svt_masks_padding_only_where_it_is_on_both_sides():
    attention = LocallyGroupedSelfAttention(8, 2, 4, qkv_bias=True).eval()
    masked = attention(torch.ones(1, 9, 8), (3, 3))
    alone = attention.proj(attention.qkv(torch.ones(8))[16:])
    torch.testing.assert_close(masked[0, 0], alone)
    assert not torch.allclose(attention(torch.ones(1, 12, 8), (3, 4))[0, 0], alone)


def test_svt_alternates_windows_and_the_whole_map():
    layers = SVT(embed_dims=(8, 8, 16), depths=(3, 1, 1)).layers[0]
    assert [hasattr(layer.attn, "window_size") for layer in layers] == [True, False, True]


def test_twins_skip_layers_as_two_draws_do():
    layer = PCPVT(embed_dims=(8, 8, 16, 16), depths=(1, 1, 1, 1), drop_path_rate=0.3).layers[3][0]
    assert layer.ffn.dropout_layer.drop_prob == pytest.approx(0.51)
    assert isinstance(layer.attn.dropout_layer.drop_prob, float)


def test_mscan_has_a_branch_for_each_pair_of_strips():
    backbone = MSCAN(
        embed_dims=(8,), mlp_ratios=(2,), depths=(1,), num_stages=1, norm_cfg={"type": "BN"},
        attention_kernel_sizes=(3, (1, 5)), attention_kernel_paddings=(1, (0, 2)),
    )  # fmt: skip
    attention = backbone.block1[0].attn.spatial_gating_unit
    assert attention.conv0_1.kernel_size == (1, 5)
    assert attention.conv0_2.padding == (2, 0)
    assert [tuple(m.shape) for m in backbone(torch.rand(1, 3, 33, 17))] == [(1, 8, 9, 5)]


@pytest.mark.parametrize(
    ("build", "path"),
    [
        (lambda: small_swin(num_heads=(1,)), "num_heads"),
        (lambda: small_swin(num_heads=(3, 2)), "num_heads"),
        (lambda: small_swin(strides=(2, 2)), "strides"),
        (lambda: small_swin(out_indices=(2,)), "out_indices"),
        (lambda: small_swin(frozen_stages=3), "frozen_stages"),
        (lambda: PCPVT(sr_ratios=(8, 4)), "sr_ratios"),
        (lambda: PCPVT(out_indices=()), "out_indices"),
        (lambda: SVT(windiow_sizes=(7, 7)), "windiow_sizes"),
        (lambda: SVT(num_heads=(3, 2, 4)), "num_heads"),
        (lambda: MSCAN(num_stages=3), "embed_dims"),
        (lambda: MSCAN(attention_kernel_paddings=(2,)), "attention_kernel_paddings"),
    ],
)
def test_bad_arguments_are_named(build, path):
    with pytest.raises(ConfigError) as caught, torch.device("meta"):
        build()
    assert caught.value.problems[0].path == path


@pytest.mark.parametrize(
    ("arch", "millions"), {"tiny": 28.35, "small": 49.73, "base": 87.92, "large": 196.74, "huge": 658.03}.items()
)
def test_swin_v2_has_the_published_size(arch, millions):
    with torch.device("meta"):
        backbone = SwinTransformerV2(arch, out_norm=False)
    channels = backbone.channels[-1]
    # The published models classify 1000 classes, after one norm.
    count = sum(p.numel() for p in backbone.parameters()) + 2 * channels + 1001 * channels
    assert count / 1e6 == pytest.approx(millions, abs=0.01)


@pytest.mark.parametrize(
    ("arch", "millions"),
    {"tiny": 27.91, "small": 35.01, "base": 51.52, "base_plus": 69.90, "large": 213.74, "huge": 672.78}.items(),
)
def test_hiera_has_the_published_size(arch, millions):
    with torch.device("meta"):
        backbone = Hiera(arch, out_norm=False)
    channels = backbone.channels[-1]
    count = sum(p.numel() for p in backbone.parameters()) + 2 * channels + 1001 * channels
    assert count / 1e6 == pytest.approx(millions, abs=0.01)


@pytest.mark.parametrize(
    ("build", "millions"),
    [
        (lambda: SAM2Hiera("tiny"), 26.85),
        (lambda: SAM2Hiera("small"), 33.95),
        (lambda: SAM2Hiera("base_plus"), 68.68),
        (lambda: SAM2Hiera("large"), 212.15),
        (lambda: ViTSAM("base"), 89.67),
        (lambda: ViTSAM("large"), 308.28),
        (lambda: ViTSAM("huge"), 637.03),
    ],
)
def test_encoders_of_sam_have_the_published_size(build, millions):
    with torch.device("meta"):
        assert sum(p.numel() for p in build().parameters()) / 1e6 == pytest.approx(millions, abs=0.01)


def test_hiera_attends_within_its_windows_only():
    backbone = Hiera({"embed_dims": 8, "num_heads": 1, "depths": (1, 1, 1, 1)}, window_sizes=(8, 4, 2, 1), img_size=64)
    images = torch.rand(1, 3, 64, 64)
    changed = images.clone()
    changed[..., 40:, 40:] += 1  # the last of four windows of 32 pixels; a patch sees 2 pixels more
    before, after = (maps[-1] for maps in (backbone.eval()(images), backbone(changed)))
    assert (before != after).any(1)[0].tolist() == [[False, False], [False, True]]


def test_row_by_row_tokens_are_scattered_over_the_windows():
    tokens = torch.arange(64.0).view(1, 8, 8, 1)
    scattered = _row_by_row(tokens, 1)
    assert scattered[0, :2, :2, 0].tolist() == [[0, 16], [32, 48]]
    assert sorted(scattered.flatten().tolist()) == tokens.flatten().tolist()


@pytest.mark.parametrize(
    ("parameter", "layer", "stage"),
    [
        ("pos_embed", 0, 0),
        ("blocks.0.mlp.fc1.weight", 1, 1),
        ("blocks.3.norm1.bias", 4, 3),
        ("norm3.weight", None, None),
    ],
)
def test_hiera_numbers_its_layers(parameter, layer, stage):
    backbone = Hiera({"embed_dims": 8, "num_heads": 1, "depths": (1, 1, 2, 1)}, img_size=64)
    assert backbone.layer_of(parameter, 12) == layer
    assert backbone.layer_of(parameter, 12, stage_wise=True) == stage


@pytest.mark.parametrize(
    ("parameter", "layer", "stage"),
    [
        ("patch_embed.projection.bias", 0, 0),
        ("stages.0.blocks.1.norm1.bias", 2, 1),
        ("stages.1.downsample.norm.bias", 3, 2),
        ("stages.1.blocks.0.norm1.bias", 3, 2),
        ("norm1.bias", None, None),
    ],
)
def test_swin_v2_numbers_its_layers(parameter, layer, stage):
    backbone = SwinTransformerV2({"embed_dims": 8, "depths": (2, 1), "num_heads": (1, 2)}, out_indices=(0, 1))
    assert parameter in backbone.state_dict()
    assert backbone.layer_of(parameter, 12) == layer
    assert backbone.layer_of(parameter, 12, stage_wise=True) == stage
