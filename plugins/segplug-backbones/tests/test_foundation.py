"""DINOv2, DINOv3 and EVA-02: published sizes, positions, layouts of weights, freezing, bad arguments."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segkernel.errors import ConfigError
from segkernel.nn import fit_shapes
from segkernel.weights import convert
from segplug_backbones import EVA02, ConvNeXt, DINOv2, DINOv3
from segplug_backbones.plain_vit import PlainViT
from segplug_backbones.positions import interpolate_positions

TINY: dict[str, Any] = {"embed_dims": 16, "num_layers": 2, "num_heads": 2, "feedforward_channels": 24}
GATED = {**TINY, "swiglu": True}


def dinov2(**more: Any) -> DINOv2:
    return DINOv2(**{"arch": TINY, "img_size": 56, **more})


def random_weights(backbone: PlainViT) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(value.shape, generator=generator) for name, value in backbone.state_dict().items()}


@pytest.mark.parametrize(
    ("kind", "counts"),
    [
        (DINOv2, {"small": 22.06, "base": 86.58, "large": 304.37, "giant": 1136.48}),
        (
            DINOv3,
            {"small": 21.60, "small_plus": 28.69, "base": 85.66, "large": 303.13, "huge_plus": 840.59, "7b": 6716.03},
        ),
        (EVA02, {"tiny": 5.65, "small": 21.92, "base": 86.35, "large": 304.05}),
    ],
)
def test_variants_have_the_published_number_of_parameters(kind, counts):
    with torch.device("meta"):
        found = {arch: sum(p.numel() for p in kind(arch).parameters()) / 1e6 for arch in counts}
    assert found == pytest.approx(counts, abs=0.01)


def test_convnext_v2_has_the_published_number_of_parameters():
    # Those of the paper, table 11, less the classifier and its norm.
    counts = {"atto": 3.39, "femto": 4.85, "pico": 8.55, "nano": 14.98, "tiny": 27.86, "base": 87.69, "large": 196.42,
              "huge": 657.47}  # fmt: skip
    with torch.device("meta"):
        models = {arch: ConvNeXt(arch, use_grn=True, layer_scale_init_value=0.0, out_norm=False) for arch in counts}
    found = {arch: sum(p.numel() for p in model.parameters()) / 1e6 for arch, model in models.items()}
    assert found == pytest.approx(counts, abs=0.01)


@pytest.mark.parametrize("size", [(10, 13), (5, 3)])
def test_an_offset_is_that_of_the_authors_resizing_by_factors(size):
    table = torch.randn(1, 1 + 4 * 6, 8, generator=torch.Generator().manual_seed(0))
    factors = ((size[0] + 0.1) / 4, (size[1] + 0.1) / 6)
    patches = table[:, 1:].transpose(1, 2).unflatten(2, (4, 6))
    expected = F.interpolate(patches, scale_factor=factors, mode="bicubic").flatten(2).transpose(1, 2)
    found = interpolate_positions(table, (4, 6), size, offset=0.1)
    torch.testing.assert_close(found[:, 1:], expected, rtol=0, atol=1e-5)
    assert torch.equal(found[:, :1], table[:, :1])


def test_positions_of_another_image_size_are_loaded_as_they_would_be_computed():
    large, small = dinov2(img_size=112, num_register_tokens=2), dinov2(num_register_tokens=2)
    weights = large.state_dict()
    assert [name for name, *_ in fit_shapes(small, weights)] == ["pos_embed"]
    torch.testing.assert_close(weights["pos_embed"], interpolate_positions(large.pos_embed, (8, 8), (4, 4), True))


def test_a_kernel_for_larger_patches_gives_resized_patches_the_same_tokens():
    large, small = (dinov2(patch_size=size) for size in (16, 14))
    weights = small.state_dict()
    fit_shapes(large, weights)
    patch = torch.randn(1, 3, 14, 14)
    larger = F.interpolate(patch, (16, 16), mode="bicubic", antialias=True)
    found = F.conv2d(larger, weights["patch_embed.proj.weight"])
    torch.testing.assert_close(found, F.conv2d(patch, small.patch_embed.proj.weight), rtol=1e-3, atol=1e-4)


def rotated(rotary: Tensor, i: int, j: int) -> Tensor:
    """Return the angles of the patch at row i and column j of a grid of 4 x 6, those of y before those of x."""
    return torch.atan2(rotary[1], rotary[0])[6 * i + j]


def test_rotary_positions_of_dinov3_are_of_patch_centres_between_minus_one_and_one():
    backbone = DINOv3({**TINY, "embed_dims": 16})
    angles = rotated(backbone.rotary((4, 6)), 3, 0)  # y = 0.75, x = -5 / 6
    expected = 2 * torch.pi * torch.tensor([0.75, 0.75 / 10, -5 / 6, -5 / 60])
    torch.testing.assert_close(angles.cos(), expected.repeat(2).cos())
    torch.testing.assert_close(angles.sin(), expected.repeat(2).sin(), atol=1e-6, rtol=1e-5)


def test_rotary_positions_of_eva02_are_scaled_to_the_grid_of_pre_training():
    angles = rotated(EVA02(TINY, img_size=56).rotary((4, 6)), 1, 3)  # y = 4 and x = 8 of 16
    expected = torch.tensor([4, 4, 0.04, 0.04, 8, 8, 0.08, 0.08])
    torch.testing.assert_close(angles.cos(), expected.cos())
    torch.testing.assert_close(angles.sin(), expected.sin())


def test_registers_and_queries_before_the_patches_are_not_rotated():
    backbone = DINOv3(TINY, num_register_tokens=3).eval()
    assert backbone.embed(torch.rand(1, 3, 32, 48))[0].shape == (1, 1 + 3 + 2 * 3, 16)
    with torch.no_grad():
        tokens, rotary = torch.rand(1, 10, 16), backbone.rotary((2, 3))
        torch.testing.assert_close(
            backbone.blocks[0](tokens[:, [1, 0, *range(2, 10)]], rotary)[:, 4:],
            backbone.blocks[0](tokens, rotary)[:, 4:],
        )


def official_dinov3(backbone: DINOv3) -> dict[str, Tensor]:
    """Return random weights of a backbone under the names of DINOv3's authors, with what they have besides."""
    weights = random_weights(backbone)
    for i in range(2):
        at = f"blocks.{i}.attn."
        query, value = weights.pop(f"{at}q_bias"), weights.pop(f"{at}v_bias")
        weights[f"{at}qkv.bias"] = torch.cat([query, torch.full_like(query, 9), value])
        weights[f"{at}qkv.bias_mask"] = torch.cat([torch.ones(16), torch.zeros(16), torch.ones(16)])
    weights["storage_tokens"] = weights.pop("register_tokens")
    return weights | {"mask_token": torch.zeros(1, 16), "rope_embed.periods": torch.ones(2)}


def timm_dinov3(backbone: DINOv3) -> dict[str, Tensor]:
    """Return random weights of a backbone without biases of queries and values under timm's names."""
    names = (("register_tokens", "reg_token"), ("ls1.gamma", "gamma_1"), ("ls2.gamma", "gamma_2"),
             ("mlp.w1", "mlp.fc1_g"), ("mlp.w2", "mlp.fc1_x"), ("mlp.w3", "mlp.fc2"))  # fmt: skip
    weights = {}
    for key, value in random_weights(backbone).items():
        for ours, theirs in names:
            key = key.replace(ours, theirs)
        if "_bias" not in key:
            weights[key] = value
    return weights


def test_weights_of_dinov3s_authors_load_without_the_bias_of_keys():
    backbone = DINOv3(GATED)
    found = convert(backbone, official_dinov3(backbone))
    assert found.format == "OfficialDINO"
    assert found.weights.keys() == backbone.state_dict().keys()
    assert all(torch.equal(value, found.weights[name]) for name, value in random_weights(backbone).items())


def test_weights_of_timm_without_biases_are_those_with_biases_of_zero():
    backbone = DINOv3(GATED)
    found = convert(backbone, timm_dinov3(backbone)).weights
    assert found.keys() == backbone.state_dict().keys()
    assert not any(value.any() for name, value in found.items() if name.endswith(("q_bias", "v_bias")))


def test_joint_gates_are_split_and_a_missing_class_position_is_zero():
    backbone = dinov2(arch=GATED, num_register_tokens=2)
    ours = random_weights(backbone)
    theirs = {name: value for name, value in ours.items() if ".mlp." not in name}
    for i in range(2):
        at = f"blocks.{i}.mlp."
        for kind in ("weight", "bias"):
            theirs[f"{at}fc1.{kind}"] = torch.cat([ours[f"{at}w1.{kind}"], ours[f"{at}w2.{kind}"]])
            theirs[f"{at}fc2.{kind}"] = ours[f"{at}w3.{kind}"]
    theirs["reg_token"], theirs["pos_embed"] = theirs.pop("register_tokens"), ours["pos_embed"][:, 1:]
    found = convert(backbone, theirs).weights
    ours["pos_embed"][:, 0] = 0
    assert found.keys() == ours.keys()
    assert all(torch.equal(found[name], value) for name, value in ours.items())


@pytest.mark.parametrize("build", [dinov2, lambda **more: DINOv3(TINY, **more), lambda **more: EVA02(TINY, **more)])
def test_frozen_blocks_have_no_gradients_and_do_not_drop_paths(build):
    backbone = build(frozen_stages=1, drop_path_rate=0.5).train()
    learning = {name.split(".")[0] if name[:6] != "blocks" else name[:8] for name, p in backbone.named_parameters()
                if p.requires_grad}  # fmt: skip
    assert learning - {"norm"} == {"blocks.1"}
    assert not backbone.blocks[0].training
    assert not any(p.requires_grad for p in build(frozen_stages=2).parameters())


def test_layers_are_counted_from_the_embeddings():
    backbone = dinov2(num_register_tokens=2)
    names = ["cls_token", "register_tokens", "pos_embed", "patch_embed.proj.weight", "blocks.0.ls1.gamma",
             "blocks.1.attn.qkv.bias"]  # fmt: skip
    assert [backbone.layer_of(name, 2) for name in names] == [0, 0, 0, 0, 1, 2]
    assert backbone.layer_of("norm.weight", 2) is None


def test_the_class_token_is_returned_on_request():
    maps = dinov2(output_cls_token=True, out_indices=(1, 0))(torch.rand(2, 3, 30, 43))
    assert [(tuple(m.shape), tuple(token.shape)) for m, token in maps] == [((2, 16, 3, 4), (2, 16))] * 2


def test_checkpointing_changes_no_gradient():
    plain, frugal = (DINOv3(TINY, with_cp=with_cp).train() for with_cp in (False, True))
    frugal.load_state_dict(plain.state_dict())
    images = torch.rand(2, 3, 64, 80)
    for backbone in (plain, frugal):
        sum(m.square().mean() for m in backbone(images)).backward()
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(plain.parameters(), frugal.parameters()))


@pytest.mark.parametrize(
    ("build", "path"),
    [
        (lambda: DINOv2("tiny"), "arch"),
        (lambda: DINOv2({"embed_dims": 8}), "arch"),
        (lambda: dinov2(arch={**TINY, "num_heads": 3}), "num_heads"),
        (lambda: dinov2(interpolate_antialias=True, interpolate_offset=0.1), "interpolate_offset"),
        (lambda: dinov2(frozen_stages=3), "frozen_stages"),
        (lambda: dinov2(out_indices=2), "out_indices"),
        (lambda: DINOv3({**TINY, "embed_dims": 12}), "arch"),
        (lambda: EVA02({**TINY, "embed_dims": 12}), "arch"),
    ],
)
def test_bad_arguments(build, path):
    with pytest.raises(ConfigError) as raised:
        build()
    assert raised.value.problems[0].path == path
