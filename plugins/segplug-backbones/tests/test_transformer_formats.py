"""Twins and CLIP in the formats of their authors: ours compute what theirs do, written out here in their names."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkernel.weights import convert, load_weights
from segplug_backbones import PCPVT, SVT, VisionTransformer

Weights = dict[str, Tensor]
SIZES: dict[str, Any] = {
    "embed_dims": (8, 16),
    "patch_sizes": (4, 2),
    "strides": (4, 2),
    "num_heads": (1, 2),
    "mlp_ratios": (2, 2),
    "out_indices": (0, 1),
    "qkv_bias": True,
    "depths": (2, 3),
    "sr_ratios": (2, 1),
    "norm_after_stage": False,
}
WINDOW = 4


def random_like(shapes: dict[str, tuple[int, ...]]) -> Weights:
    generator = torch.Generator().manual_seed(0)
    return {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def images(side: int) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def converted(module: nn.Module, weights: Weights, format: str) -> nn.Module:
    """Load weights of another format into a module, all of them, and return it."""
    found = convert(module, weights)
    assert found.format == format
    report = load_weights(module, found.weights, mode="finetune")
    assert (report.fresh, report.reshaped) == ((), ())
    return module.eval()


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def layer_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(-2, -3) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(-2, -3).flatten(-2)


def affine(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


# ---------------------------------------------------------------- Twins


def windowed(kind: type[PCPVT], layer: int) -> bool:
    return kind is SVT and layer % 2 == 0


def twins_shapes(kind: type[PCPVT]) -> dict[str, tuple[int, ...]]:
    shapes, inputs = affine("norm", 16) | affine("head", 10, 16), 3
    for i, (c, patch, depth, ratio) in enumerate(zip((8, 16), (4, 2), (2, 3), (2, 1), strict=True)):
        shapes |= affine(f"patch_embeds.{i}.proj", c, inputs, patch, patch) | affine(f"patch_embeds.{i}.norm", c)
        shapes |= affine(f"pos_block.{i}.proj.0", c, 1, 3, 3)
        inputs = c
        for j in range(depth):
            at = f"blocks.{i}.{j}"
            shapes |= affine(f"{at}.norm1", c) | affine(f"{at}.norm2", c) | affine(f"{at}.attn.proj", c, c)
            shapes |= affine(f"{at}.mlp.fc1", 2 * c, c) | affine(f"{at}.mlp.fc2", c, 2 * c)
            if windowed(kind, j):
                shapes |= affine(f"{at}.attn.qkv", 3 * c, c)
                continue
            shapes |= affine(f"{at}.attn.q", c, c) | affine(f"{at}.attn.kv", 2 * c, c)
            if ratio > 1:
                shapes |= affine(f"{at}.attn.sr", c, c, ratio, ratio) | affine(f"{at}.attn.norm", c)
    return shapes


def in_windows(w: Weights, at: str, x: Tensor, side: int, heads: int) -> Tensor:
    """Attend within squares of tokens, cut out and put back by way of (N, rows, columns, height, width, C)."""
    count = side // WINDOW
    squares = x.unflatten(1, (count, WINDOW, count, WINDOW)).transpose(2, 3)
    seen = attention(*linear(w, f"{at}.qkv", squares.flatten(3, 4)).chunk(3, -1), heads)
    return linear(w, f"{at}.proj", seen.view(squares.shape).transpose(2, 3).flatten(1, 4))


def to_all(w: Weights, at: str, x: Tensor, side: int, heads: int, ratio: int) -> Tensor:
    context = x
    if ratio > 1:
        grid = x.transpose(1, 2).unflatten(2, (side, side))
        context = F.conv2d(grid, w[f"{at}.sr.weight"], w[f"{at}.sr.bias"], ratio).flatten(2).transpose(1, 2)
        context = layer_norm(w, f"{at}.norm", context)
    k, v = linear(w, f"{at}.kv", context).chunk(2, -1)
    return linear(w, f"{at}.proj", attention(linear(w, f"{at}.q", x), k, v, heads))


def twins(w: Weights, x: Tensor, kind: type[PCPVT]) -> list[Tensor]:
    maps = []
    for i, (patch, depth, ratio, heads) in enumerate(zip((4, 2), (2, 3), (2, 1), (1, 2), strict=True)):
        x = F.conv2d(x, w[f"patch_embeds.{i}.proj.weight"], w[f"patch_embeds.{i}.proj.bias"], patch)
        side = x.shape[2]
        x = layer_norm(w, f"patch_embeds.{i}.norm", x.flatten(2).transpose(1, 2))
        for j in range(depth):
            at = f"blocks.{i}.{j}"
            normed = layer_norm(w, f"{at}.norm1", x)
            if windowed(kind, j):
                x = x + in_windows(w, f"{at}.attn", normed, side, heads)
            else:
                x = x + to_all(w, f"{at}.attn", normed, side, heads, ratio)
            hidden = F.gelu(linear(w, f"{at}.mlp.fc1", layer_norm(w, f"{at}.norm2", x)))
            x = x + linear(w, f"{at}.mlp.fc2", hidden)
            if j == 0:
                grid, where = x.transpose(1, 2).unflatten(2, (side, side)), f"pos_block.{i}.proj.0"
                grid = grid + F.conv2d(grid, w[f"{where}.weight"], w[f"{where}.bias"], padding=1, groups=x.shape[2])
                x = grid.flatten(2).transpose(1, 2)
        x = x.transpose(1, 2).unflatten(2, (side, side))
        maps.append(x)
    return maps


@pytest.mark.parametrize("kind", [PCPVT, SVT])
def test_twins_of_their_authors(kind: type[PCPVT]) -> None:
    w = random_like(twins_shapes(kind))
    windows = {"windiow_sizes": (WINDOW, WINDOW)} if kind is SVT else {}
    model = converted(kind(**SIZES, **windows), w, "OfficialTwins")
    for ours, theirs in zip(model(images(64)), twins(w, images(64), kind), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_the_norm_of_a_classifier_is_that_of_the_last_stage() -> None:
    w = random_like(twins_shapes(PCPVT))
    found = convert(PCPVT(**{**SIZES, "norm_after_stage": True}), w)
    assert torch.equal(found.weights["norm_list.1.weight"], w["norm.weight"])
    assert "norm_list.0.weight" not in found.weights


def test_twins_of_mmpretrain() -> None:
    own = SVT(**{**SIZES, "norm_after_stage": True}, windiow_sizes=(WINDOW, WINDOW)).state_dict()
    theirs = {}
    for name, value in own.items():
        name = name.replace("layers", "stages", 1) if name.startswith("layers") else name
        theirs[f"backbone.{name.replace('norm_list.', 'norm_after_stage')}"] = value
    found = convert(SVT(**{**SIZES, "norm_after_stage": True}, windiow_sizes=(WINDOW, WINDOW)), theirs)
    assert found.format == "MMPretrainTwins"
    assert found.weights.keys() == own.keys()
    assert all(torch.equal(value, own[name]) for name, value in found.weights.items())


# ---------------------------------------------------------------- CLIP

WIDTH, HEADS, LAYERS = 12, 3, 2


def clip_shapes() -> dict[str, tuple[int, ...]]:
    shapes = {"visual.class_embedding": (WIDTH,), "visual.positional_embedding": (17, WIDTH), "visual.proj": (WIDTH, 6)}
    shapes |= {"visual.conv1.weight": (WIDTH, 3, 8, 8), "positional_embedding": (77, 8), "logit_scale": ()}
    for name in ("visual.ln_pre", "visual.ln_post"):
        shapes |= affine(name, WIDTH)
    for i in range(LAYERS):
        at = f"visual.transformer.resblocks.{i}"
        shapes |= {f"{at}.attn.in_proj_weight": (3 * WIDTH, WIDTH), f"{at}.attn.in_proj_bias": (3 * WIDTH,)}
        shapes |= (
            affine(f"{at}.attn.out_proj", WIDTH, WIDTH) | affine(f"{at}.ln_1", WIDTH) | affine(f"{at}.ln_2", WIDTH)
        )
        shapes |= affine(f"{at}.mlp.c_fc", 4 * WIDTH, WIDTH) | affine(f"{at}.mlp.c_proj", WIDTH, 4 * WIDTH)
    return shapes


def clip_image_tokens(w: Weights, x: Tensor) -> Tensor:
    """Return the class token and the others, after the last norm, which CLIP gives to the class token only."""
    x = F.conv2d(x, w["visual.conv1.weight"], stride=8).flatten(2).transpose(1, 2)
    x = torch.cat([w["visual.class_embedding"].expand(len(x), 1, -1), x], 1) + w["visual.positional_embedding"]
    x = layer_norm(w, "visual.ln_pre", x)
    for i in range(LAYERS):
        at = f"visual.transformer.resblocks.{i}"
        y = F.linear(layer_norm(w, f"{at}.ln_1", x), w[f"{at}.attn.in_proj_weight"], w[f"{at}.attn.in_proj_bias"])
        x = x + linear(w, f"{at}.attn.out_proj", attention(*y.chunk(3, -1), HEADS))
        y = linear(w, f"{at}.mlp.c_fc", layer_norm(w, f"{at}.ln_2", x))
        x = x + linear(w, f"{at}.mlp.c_proj", y * torch.sigmoid(1.702 * y))
    return layer_norm(w, "visual.ln_post", x)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_clips_image_encoder(prefix: str) -> None:
    w = random_like(clip_shapes())
    sizes = {"img_size": 32, "patch_size": 8, "embed_dims": WIDTH, "num_layers": LAYERS, "num_heads": HEADS}
    model = VisionTransformer(
        **sizes, pre_norm=True, final_norm=True, output_cls_token=True, act_cfg={"type": "QuickGELU"}
    )
    model = converted(model, {f"{prefix}{name}": value for name, value in w.items()}, "CLIPViT")
    ((grid, token),) = model(images(32))
    theirs = clip_image_tokens(w, images(32))
    torch.testing.assert_close(token, theirs[:, 0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grid.flatten(2).transpose(1, 2), theirs[:, 1:], rtol=1e-4, atol=1e-5)
