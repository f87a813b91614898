"""Weights in the formats of others: after conversion our models compute what the others' do.

What others compute is written out here as functions of their weights, in their names.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkernel import checkpoint
from segkernel.nn import fit_shapes
from segkernel.weights import convert, load_into, load_weights
from segplug_backbones import (
    MAE,
    BEiT,
    ConvNeXt,
    MixVisionTransformer,
    ResNet,
    ResNetV1d,
    STDCNet,
    SwinTransformer,
    VisionTransformer,
)
from segplug_backbones.swin import PatchMerging
from segplug_backbones.weight_formats.swin import unfolded

Weights = dict[str, Tensor]
WIDTH, HEADS = 12, 3


def random_like(shapes: dict[str, tuple[int, ...]]) -> Weights:
    generator = torch.Generator().manual_seed(0)
    return {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def converted(module: nn.Module, weights: Weights, format: str, **more: str) -> nn.Module:
    """Load weights of another format into a module, all of them, and return it."""
    found = convert(module, weights, **more)
    assert found.format == format
    report = load_weights(module, found.weights, mode="finetune")
    assert [name for name in report.fresh if "index" not in name] == []
    assert report.reshaped == ()
    return module.eval()


def images(side: int = 32) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


# ---------------------------------------------------------------- vision transformers


def vit(**more: object) -> VisionTransformer:
    sizes = {"img_size": 32, "patch_size": 8, "embed_dims": WIDTH, "num_layers": 2, "num_heads": HEADS, "mlp_ratio": 2}
    return VisionTransformer(**sizes, patch_bias=True, out_indices=1, final_norm=True, norm_cfg={"type": "LN"}, **more)


def timm_shapes(bias: bool = True, tokens: int = 17, layers: int = 2) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, WIDTH), "pos_embed": (1, tokens, WIDTH)}
    shapes |= {"patch_embed.proj.weight": (WIDTH, 3, 8, 8), "patch_embed.proj.bias": (WIDTH,)}
    for i in range(layers):
        for name, shape in {
            "norm1.weight": (WIDTH,),
            "norm1.bias": (WIDTH,),
            "attn.qkv.weight": (3 * WIDTH, WIDTH),
            "attn.proj.weight": (WIDTH, WIDTH),
            "attn.proj.bias": (WIDTH,),
            "norm2.weight": (WIDTH,),
            "norm2.bias": (WIDTH,),
            "mlp.fc1.weight": (2 * WIDTH, WIDTH),
            "mlp.fc1.bias": (2 * WIDTH,),
            "mlp.fc2.weight": (WIDTH, 2 * WIDTH),
            "mlp.fc2.bias": (WIDTH,),
        }.items():
            shapes[f"blocks.{i}.{name}"] = shape
        if bias:
            shapes[f"blocks.{i}.attn.qkv.bias"] = (3 * WIDTH,)
    return shapes | {"norm.weight": (WIDTH,), "norm.bias": (WIDTH,), "head.weight": (10, WIDTH), "head.bias": (10,)}


def layer_norm(w: Weights, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def timm_vit(w: Weights, x: Tensor) -> Tensor:
    x = F.conv2d(x, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=8).flatten(2).transpose(1, 2)
    x = torch.cat([w["cls_token"].expand(len(x), -1, -1), x], 1) + w["pos_embed"]
    for i in range(2):
        q, k, v = linear(w, f"blocks.{i}.attn.qkv", layer_norm(w, f"blocks.{i}.norm1", x)).chunk(3, -1)
        x = x + linear(w, f"blocks.{i}.attn.proj", attention(q, k, v, HEADS))
        hidden = F.gelu(linear(w, f"blocks.{i}.mlp.fc1", layer_norm(w, f"blocks.{i}.norm2", x)))
        x = x + linear(w, f"blocks.{i}.mlp.fc2", hidden)
    return layer_norm(w, "norm", x)[:, 1:].transpose(1, 2).unflatten(2, (4, 4))


@pytest.mark.parametrize("prefix", ["", "module.", "backbone."])
def test_a_vit_of_timm(prefix: str) -> None:
    w = random_like(timm_shapes())
    model = converted(vit(), {prefix + name: value for name, value in w.items()}, "TimmViT")
    torch.testing.assert_close(model(images())[-1], timm_vit(w, images()), rtol=1e-4, atol=1e-5)


def test_a_whole_model_with_the_backbone_of_timm() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.decode_head = vit(), nn.Linear(WIDTH, 3)

    w = {name: value for name, value in random_like(timm_shapes()).items() if not name.startswith("head")}
    head = {f"decode_head.{name}": value for name, value in nn.Linear(WIDTH, 3).state_dict().items()}
    model, source = Model(), {"state_dict": {f"backbone.{name}": value for name, value in w.items()} | head}
    _, report = load_into(model, {**source, "meta": {}, "path": "a.pth"}, "strict")
    assert report.format == "WholeModelBackbone"
    torch.testing.assert_close(model.backbone.eval()(images())[-1], timm_vit(w, images()), rtol=1e-4, atol=1e-5)


def test_position_embeddings_of_another_size_are_resampled() -> None:
    weights = convert(vit(), random_like(timm_shapes(tokens=1 + 49))).weights
    assert fit_shapes(vit(), weights) == [("pos_embed", (1, 50, WIDTH), (1, 17, WIDTH))]


def test_a_vit_of_mmpretrain() -> None:
    w = random_like(timm_shapes())
    names = (("patch_embed.proj", "patch_embed.projection"), ("mlp.fc1", "ffn.layers.0.0"), ("mlp.fc2", "ffn.layers.1"))
    theirs = {}
    for name, value in w.items():
        for old, new in (*names, ("blocks", "layers"), ("norm1", "ln1"), ("norm2", "ln2"), ("norm.", "ln1.")):
            name = name.replace(old, new)
        theirs[f"backbone.{name}"] = value
    model = converted(vit(), theirs, "MMPretrainViT")
    torch.testing.assert_close(model(images())[-1], timm_vit(w, images()), rtol=1e-4, atol=1e-5)


def jax_vit(w: dict[str, np.ndarray], x: Tensor) -> Tensor:
    """Compute as flax does: dense layers are x @ kernel, heads are an axis of their own."""
    t = {name: torch.from_numpy(value) for name, value in w.items()}
    x = F.conv2d(x, t["embedding/kernel"].permute(3, 2, 0, 1), t["embedding/bias"], stride=8).flatten(2).transpose(1, 2)
    x = torch.cat([t["cls"].expand(len(x), -1, -1), x], 1) + t["Transformer/posembed_input/pos_embedding"]
    for i in range(2):
        at = f"Transformer/encoderblock_{i}"
        mha = f"{at}/MultiHeadDotProductAttention_1"
        y = F.layer_norm(x, (WIDTH,), t[f"{at}/LayerNorm_0/scale"], t[f"{at}/LayerNorm_0/bias"])
        q, k, v = (
            torch.einsum("blc,chd->bhld", y, t[f"{mha}/{part}/kernel"]) + t[f"{mha}/{part}/bias"][:, None]
            for part in ("query", "key", "value")
        )
        seen = (q @ k.transpose(-1, -2) / math.sqrt(WIDTH // HEADS)).softmax(-1) @ v
        x = x + torch.einsum("bhld,hdc->blc", seen, t[f"{mha}/out/kernel"]) + t[f"{mha}/out/bias"]
        y = F.layer_norm(x, (WIDTH,), t[f"{at}/LayerNorm_2/scale"], t[f"{at}/LayerNorm_2/bias"])
        y = F.gelu(y @ t[f"{at}/MlpBlock_3/Dense_0/kernel"] + t[f"{at}/MlpBlock_3/Dense_0/bias"])
        x = x + y @ t[f"{at}/MlpBlock_3/Dense_1/kernel"] + t[f"{at}/MlpBlock_3/Dense_1/bias"]
    x = F.layer_norm(x, (WIDTH,), t["Transformer/encoder_norm/scale"], t["Transformer/encoder_norm/bias"])
    return x[:, 1:].transpose(1, 2).unflatten(2, (4, 4))


def test_a_vit_of_jax_from_its_file(tmp_path: Path) -> None:
    shapes: dict[str, tuple[int, ...]] = {
        "cls": (1, 1, WIDTH),
        "Transformer/posembed_input/pos_embedding": (1, 17, WIDTH),
    }
    shapes |= {"embedding/kernel": (8, 8, 3, WIDTH), "embedding/bias": (WIDTH,), "head/kernel": (WIDTH, 10)}
    shapes |= {f"Transformer/encoder_norm/{name}": (WIDTH,) for name in ("scale", "bias")}
    for i in range(2):
        at = f"Transformer/encoderblock_{i}"
        for part in ("query", "key", "value"):
            shapes[f"{at}/MultiHeadDotProductAttention_1/{part}/kernel"] = (WIDTH, HEADS, WIDTH // HEADS)
            shapes[f"{at}/MultiHeadDotProductAttention_1/{part}/bias"] = (HEADS, WIDTH // HEADS)
        shapes[f"{at}/MultiHeadDotProductAttention_1/out/kernel"] = (HEADS, WIDTH // HEADS, WIDTH)
        shapes[f"{at}/MultiHeadDotProductAttention_1/out/bias"] = (WIDTH,)
        shapes |= {f"{at}/LayerNorm_{n}/{name}": (WIDTH,) for n in (0, 2) for name in ("scale", "bias")}
        shapes |= {f"{at}/MlpBlock_3/Dense_0/kernel": (WIDTH, 2 * WIDTH), f"{at}/MlpBlock_3/Dense_0/bias": (2 * WIDTH,)}
        shapes |= {f"{at}/MlpBlock_3/Dense_1/kernel": (2 * WIDTH, WIDTH), f"{at}/MlpBlock_3/Dense_1/bias": (WIDTH,)}
    arrays = {name: value.numpy() for name, value in random_like(shapes).items()}
    np.savez(tmp_path / "ViT.npz", **arrays)
    model = converted(vit(), checkpoint.load(tmp_path / "ViT.npz")["state_dict"], "JaxViT")
    torch.testing.assert_close(model(images())[-1], jax_vit(arrays, images()), rtol=1e-4, atol=1e-5)


BEIT = {"img_size": 32, "patch_size": 8, "embed_dims": WIDTH, "num_layers": 2, "num_heads": HEADS, "mlp_ratio": 2}


def test_beit_before_fine_tuning_shares_one_table() -> None:
    w = random_like(timm_shapes(bias=False))
    del w["pos_embed"]
    for i in range(2):
        w |= {f"blocks.{i}.attn.{name}": torch.full((WIDTH,), 1.0 + i) for name in ("q_bias", "v_bias")}
        w |= {f"blocks.{i}.gamma_{n}": torch.full((WIDTH,), 0.5) for n in (1, 2)}
    w["rel_pos_bias.relative_position_bias_table"] = torch.randn(52, HEADS)
    w["rel_pos_bias.relative_position_index"] = torch.zeros(17, 17)
    model = converted(BEiT(**BEIT, out_indices=1), w, "OfficialBEiT")
    for i, layer in enumerate(model.layers):
        assert torch.equal(layer.attn.relative_position_bias_table, w["rel_pos_bias.relative_position_bias_table"])
        assert torch.equal(layer.attn.qkv.weight, w[f"blocks.{i}.attn.qkv.weight"])
        assert layer.attn.v_bias[0] == 1 + i
        assert layer.gamma_2[0] == 0.5


def test_a_table_of_relative_positions_is_resampled_and_keeps_the_rows_of_the_class() -> None:
    model = BEiT(**{**BEIT, "img_size": 48}, out_indices=1)
    own = {name: value.clone() for name, value in BEiT(**BEIT, out_indices=1).state_dict().items()}
    name = "layers.0.attn.relative_position_bias_table"
    own[name] = torch.randn(52, HEADS)
    found = dict(own)
    fit_shapes(model, found)
    assert found[name].shape == (124, HEADS)
    assert torch.equal(found[name][-3:], own[name][-3:])


def test_mae_loads_its_encoder() -> None:
    w = random_like(timm_shapes()) | {"mask_token": torch.zeros(1, 1, 4), "decoder_pos_embed": torch.zeros(1, 17, 4)}
    model = MAE(**BEIT, out_indices=1)
    found = convert(model, w)
    assert found.format == "OfficialBEiT"
    own = {name for name in model.state_dict() if "relative" not in name and "gamma" not in name}
    assert own <= found.weights.keys()
    assert torch.equal(found.weights["layers.1.attn.qkv.bias"], w["blocks.1.attn.qkv.bias"])


# ---------------------------------------------------------------- hierarchical transformers


INNER_NORMS = ("norm0", "norm1", "norm2")
"""Of maps that a classifier does not have."""


def swin() -> SwinTransformer:
    return SwinTransformer(embed_dims=4, depths=(2, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=4)


def their_swin(names: dict[str, str]) -> Weights:
    """Return a Swin under other names: patterns from ours to theirs, written the other way round."""
    torch.manual_seed(0)
    ours = {
        name: value for name, value in swin().state_dict().items() if not name.startswith(("norm0", "norm1", "norm2"))
    }
    renamed = {}
    for name, value in ours.items():
        for old, new in names.items():
            name = name.replace(old, new)
        renamed[name] = value
    return renamed


OFFICIAL = {
    "patch_embed.projection": "patch_embed.proj",
    "stages": "layers",
    "attn.w_msa": "attn",
    "ffn.layers.0.0": "mlp.fc1",
    "ffn.layers.1": "mlp.fc2",
    "norm3.": "norm.",
}


def test_swin_of_its_authors() -> None:
    found = convert(swin(), their_swin(OFFICIAL))
    assert found.format == "OfficialSwin"
    wanted = {
        name for name in swin().state_dict() if "index" not in name and not name.startswith(("norm0", "norm1", "norm2"))
    }
    assert wanted <= found.weights.keys()


def test_swin_of_new_timm_merges_at_the_start_of_a_stage() -> None:
    moved = {}
    for name, value in their_swin(OFFICIAL).items():
        parts = name.split(".")
        if "downsample" in name:
            parts[1] = str(int(parts[1]) + 1)
        moved[".".join(parts)] = value
    old, new = convert(swin(), their_swin(OFFICIAL)), convert(swin(), moved)
    assert new.format == "OfficialSwin"
    assert all(torch.equal(value, new.weights[name]) for name, value in old.weights.items())


TRANSFORMERS_FILE = {
    "patch_embed.projection": "embeddings.patch_embeddings.projection",
    "patch_embed.norm": "embeddings.norm",
    "stages": "encoder.layers",
    "attn.w_msa.relative": "attention.self.relative",
    "attn.w_msa.proj": "attention.output.dense",
    "attn.w_msa": "attention.self",
    "ffn.layers.0.0": "intermediate.dense",
    "ffn.layers.1": "output.dense",
    ".norm1": ".layernorm_before",
    ".norm2": ".layernorm_after",
    "norm3": "layernorm",
}
TRANSFORMERS_MEMORY = {
    "attention.self.relative_position": "attention.relative_position_bias.relative_position",
    "attention.self": "attention",
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}


@pytest.mark.parametrize("in_memory", [False, True])
def test_swin_of_transformers(in_memory: bool) -> None:
    theirs = {}
    for name, value in their_swin(TRANSFORMERS_FILE).items():
        split = dict(zip(("query", "key", "value"), value.chunk(3), strict=True)) if ".qkv." in name else {"qkv": value}
        theirs |= {name.replace(".qkv.", f".{part}."): each for part, each in split.items()}
    if in_memory:
        for old, new in TRANSFORMERS_MEMORY.items():
            theirs = {f"swin.{name.removeprefix('swin.').replace(old, new)}": each for name, each in theirs.items()}
        theirs = {re.sub(r"\.(query|key|value)\.", lambda m: f".{m[1][0]}_proj.", n): v for n, v in theirs.items()}
    found, authors = convert(swin(), theirs), convert(swin(), their_swin(OFFICIAL))
    assert found.format == "TransformersSwin"
    assert found.weights.keys() == authors.weights.keys()
    assert all(torch.equal(value, authors.weights[name]) for name, value in found.weights.items())


def test_neighbours_are_merged_in_the_order_of_unfolding() -> None:
    w = random_like({"norm.weight": (16,), "norm.bias": (16,), "reduction.weight": (8, 16)})
    x = torch.randn(2, 6, 4, 4)  # (N, H, W, C), as the authors merge it
    theirs = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1).flatten(1, 2)
    theirs = linear(w, "reduction", layer_norm(w, "norm", theirs))
    merging = PatchMerging(4, 8)
    merging.load_state_dict({name: unfolded(value) for name, value in w.items()})
    ours, size = merging(x.flatten(1, 2), (6, 4))
    assert tuple(size) == (3, 2)
    torch.testing.assert_close(ours, theirs)


def mit() -> MixVisionTransformer:
    torch.manual_seed(0)
    sizes = {"embed_dims": 8, "num_layers": (1,) * 4, "num_heads": (1, 1, 2, 2), "sr_ratios": (2, 1, 1, 1)}
    return MixVisionTransformer(**sizes, mlp_ratio=2)


def their_mit(model: MixVisionTransformer) -> Weights:
    """Return the weights of a backbone as its authors name them."""
    theirs: Weights = {}
    for name, value in model.state_dict().items():
        stage, part, *rest = name.split(".")[1:]
        tail, number = ".".join(rest), int(stage) + 1
        if part == "0":
            theirs[f"patch_embed{number}.{tail.replace('projection', 'proj')}"] = value
        elif part == "2":
            theirs[f"norm{number}.{tail}"] = value
        elif "in_proj_" in tail:
            q, kv = value.split([len(value) // 3, 2 * len(value) // 3])
            for piece, split in (("q", q), ("kv", kv)):
                theirs[f"block{number}.{tail.replace('attn.attn.in_proj_', f'attn.{piece}.')}"] = split
        else:
            for old, new in (("attn.attn.out_proj", "attn.proj"), ("ffn.layers.0", "mlp.fc1"),
                             ("ffn.layers.1", "mlp.dwconv.dwconv"), ("ffn.layers.4", "mlp.fc2")):  # fmt: skip
                tail = tail.replace(old, new)
            theirs[f"block{number}.{tail}"] = value.flatten(1) if ".fc" in tail and value.ndim == 4 else value
    return theirs


def test_mix_vision_transformer_of_its_authors() -> None:
    model = mit().eval()
    fresh = mit().apply(lambda part: nn.init.zeros_(part.weight) if isinstance(part, nn.Linear) else None)
    for ours, expected in zip(
        converted(fresh, their_mit(model), "OfficialMiT")(images(64)), model(images(64)), strict=True
    ):
        torch.testing.assert_close(ours, expected)


class TheirSegFormerHead(nn.Module):
    """Linear layers, from coarse to fine, and a convolution with a norm over all."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        for number, width in enumerate(widths, start=1):
            self.add_module(f"linear_c{number}", nn.ModuleDict({"proj": nn.Linear(width, 6)}))
        self.linear_fuse = nn.ModuleDict({"conv": nn.Conv2d(24, 6, 1, bias=False), "bn": nn.BatchNorm2d(6)})
        self.linear_pred = nn.Conv2d(6, 5, 1)

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        size, joined = maps[0].shape[2:], []
        for number in (4, 3, 2, 1):
            x = getattr(self, f"linear_c{number}")["proj"](maps[number - 1].flatten(2).transpose(1, 2))
            x = x.transpose(1, 2).unflatten(2, maps[number - 1].shape[2:])
            joined.append(F.interpolate(x, size, mode="bilinear", align_corners=False))
        return self.linear_pred(self.linear_fuse["bn"](self.linear_fuse["conv"](torch.cat(joined, 1))).relu())


def test_a_whole_segformer_of_its_authors() -> None:
    class Whole(nn.Module):
        """The part of a segmentor that the format looks at."""

        def __init__(self) -> None:
            super().__init__()
            self.backbone = mit()

    trunk, head = mit().eval(), TheirSegFormerHead((8, 8, 16, 16)).eval()
    theirs = {f"backbone.{name}": value for name, value in their_mit(trunk).items()}
    theirs |= {f"decode_head.{name}": value for name, value in head.state_dict().items()}
    found = convert(Whole(), theirs)
    assert found.format == "OfficialSegFormer"
    w, maps = found.weights, trunk(images(64))
    size, joined = maps[0].shape[2:], []
    for i, x in enumerate(maps):  # what SegformerHead(linear_projection=True) does, from fine to coarse
        x = F.conv2d(x, w[f"decode_head.convs.{i}.conv.weight"], w[f"decode_head.convs.{i}.conv.bias"])
        joined.append(F.interpolate(x, size, mode="bilinear", align_corners=False))
    x = F.conv2d(torch.cat(joined, 1), w["decode_head.fusion_conv.conv.weight"])
    stats = [w[f"decode_head.fusion_conv.bn.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
    x = F.batch_norm(x, *stats).relu()
    ours = F.conv2d(x, w["decode_head.conv_seg.weight"], w["decode_head.conv_seg.bias"])
    torch.testing.assert_close(ours, head(maps))


# ---------------------------------------------------------------- convolutional networks


def test_detectrons_arrays_are_for_other_pictures(tmp_path: Path) -> None:
    blobs = {"conv1_w": (64, 3, 7, 7), "res_conv1_bn_s": (64,), "res_conv1_bn_b": (64,)}
    widths = {2: 64, 3: 128, 4: 256, 5: 512}
    inputs = 64
    for stage, width in widths.items():
        for block in range({2: 3, 3: 4, 4: 6, 5: 3}[stage]):
            at = f"res{stage}_{block}"
            for letter, shape in (
                ("a", (width, inputs, 1, 1)),
                ("b", (width, width, 3, 3)),
                ("c", (4 * width, width, 1, 1)),
            ):
                blobs[f"{at}_branch2{letter}_w"] = shape
                blobs |= {f"{at}_branch2{letter}_bn_{part}": shape[:1] for part in "sb"}
            if block == 0:
                blobs[f"{at}_branch1_w"] = (4 * width, inputs, 1, 1)
                blobs |= {f"{at}_branch1_bn_{part}": (4 * width,) for part in "sb"}
            inputs = 4 * width
    w = random_like(blobs)
    model = converted(ResNet(50, style="caffe"), w, "DetectronResNet")
    pixels = torch.rand(1, 3, 16, 16) * 255
    mean, std = (
        torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1),
        torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1),
    )
    theirs = F.conv2d((pixels - mean).flip(1), w["conv1_w"], stride=2, padding=3)
    torch.testing.assert_close(model.conv1((pixels - mean) / std), theirs, rtol=1e-3, atol=1e-3)
    theirs = theirs * w["res_conv1_bn_s"].view(-1, 1, 1) + w["res_conv1_bn_b"].view(-1, 1, 1)
    torch.testing.assert_close(model.bn1(model.conv1((pixels - mean) / std)), theirs, rtol=1e-3, atol=1e-2)


def test_caffe_has_to_be_asked_for() -> None:
    w = ResNet(18).state_dict()
    assert convert(ResNet(18), w).format == ""
    asked = convert(ResNet(18), w, format="CaffeResNet")
    assert torch.allclose(asked.weights["conv1.weight"][:, 0], w["conv1.weight"][:, 2] * 58.395)


def test_the_deep_stem_of_timm() -> None:
    def theirs(name: str) -> str:
        if name.startswith("stem.7."):
            return name.replace("stem.7.", "bn1.")
        return name.replace("stem.", "conv1.")

    w = {theirs(name): value for name, value in ResNetV1d(18).state_dict().items()}
    converted(ResNetV1d(18), w, "TimmResNet")


CONVNEXT = {
    "arch": {"depths": [1, 1, 1, 1], "channels": [4, 8, 8, 8]},
    "out_indices": [0, 1, 2, 3],
    "gap_before_final_norm": False,
}


@pytest.mark.parametrize(
    ("format", "names"),
    [
        ("OfficialConvNeXt", [("depthwise_conv", "dwconv"), ("pointwise_conv", "pwconv")]),
        (
            "TimmConvNeXt",
            [("downsample_layers.0", "stem"), *((f"stages.{i}.0", f"stages.{i}.blocks.0") for i in range(4)),
             *((f"downsample_layers.{i}", f"stages.{i}.downsample") for i in (1, 2, 3)), ("depthwise_conv", "conv_dw"),
             ("pointwise_conv1", "mlp.fc1"), ("pointwise_conv2", "mlp.fc2")],
        ),
        (
            "TorchvisionConvNeXt",
            [*((f"downsample_layers.{i}", f"features.{2 * i}") for i in range(4)), ("depthwise_conv", "block.0"),
             *((f"stages.{i}", f"features.{2 * i + 1}") for i in range(4)), ("0.norm", "0.block.2"),
             ("pointwise_conv1", "block.3"), ("pointwise_conv2", "block.5"), ("gamma", "layer_scale")],
        ),
    ],
)  # fmt: skip
def test_convnext_of_others(format: str, names: list[tuple[str, str]]) -> None:
    torch.manual_seed(0)
    model = ConvNeXt(**CONVNEXT).eval()
    theirs = {}
    for name, value in model.state_dict().items():
        for old, new in names:
            name = name.replace(old, new)
        theirs[name] = value.view(-1, 1, 1) if "layer_scale" in name else value
    fresh = converted(ConvNeXt(**CONVNEXT), theirs, format)
    for ours, expected in zip(fresh(images(64)), model(images(64)), strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("kind", ["STDCNet1", "STDCNet2"])
def test_stdc_of_its_authors(kind: str) -> None:
    sizes = {"in_channels": 3, "channels": (4, 8, 16, 16, 16), "bottleneck_type": "cat", "num_convs": 4}
    model = STDCNet(stdc_type=kind, **sizes, norm_cfg={"type": "BN"}, act_cfg={"type": "ReLU"}).eval()
    order = ["0", "1", *(f"{i}.{j}" for i, stage in list(enumerate(model.stages))[2:] for j in range(len(stage)))]
    theirs = {}
    for name, value in model.state_dict().items():
        for index, place in enumerate(order):
            if name.startswith(f"stages.{place}."):
                tail = name.removeprefix(f"stages.{place}.")
                for old, new in (("downsample.conv", "avd_layer.0"), ("downsample.bn", "avd_layer.1")):
                    tail = tail.replace(old, new)
                tail = "conv_list." + tail.removeprefix("layers.") if tail.startswith("layers.") else tail
                theirs[f"cp.features.{index}.{tail}"] = value
    fresh = STDCNet(stdc_type=kind, **sizes, norm_cfg={"type": "BN"}, act_cfg={"type": "ReLU"})
    for ours, expected in zip(converted(fresh, theirs, "OfficialSTDC")(images(64)), model(images(64)), strict=True):
        torch.testing.assert_close(ours, expected)
