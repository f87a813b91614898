"""MobileNetV4, RepViT, FastViT, MobileOne, EdgeNeXt, StarNet, EfficientFormerV2, EfficientViT."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segkernel.errors import ConfigError
from segkernel.interfaces.model import Backbone
from segkernel.weights import convert, load_into
from segplug_backbones import (
    EdgeNeXt,
    EfficientFormerV2,
    EfficientViT,
    FastViT,
    MobileNetV4,
    MobileOne,
    RepViT,
    StarNet,
)
from segplug_backbones.reparameterize import Reparameterizable

PARAMETERS: dict[type[Backbone], dict[str, int]] = {
    MobileNetV4: {
        "conv_small": 1261664, "conv_small_035": 191744, "conv_small_050": 340992, "conv_medium": 7203152,
        "conv_large": 30078504, "hybrid_medium": 8562288, "hybrid_medium_075": 5108368, "hybrid_large": 35252264,
        "hybrid_large_075": 20549824,
    },
    RepViT: {
        "m0_9": 4717792, "m1_0": 6403004, "m1_1": 7774864, "m1_5": 13616384, "m2_3": 22404232, "m1": 4713712,
        "m2": 7769936, "m3": 9654784,
    },
    FastViT: {
        "t8": 3171936, "t12": 6382208, "s12": 8302080, "sa12": 10409472, "sa24": 20382720, "sa36": 30355968,
        "ma36": 42647856,
    },
    MobileOne: {"s0": 4268272, "s1": 3544192, "s2": 5835648, "s3": 8121600, "s4": 12902248},
    EdgeNeXt: {"xx_small": 1157880, "x_small": 2143420, "small": 5281224, "base": 17925124},
    StarNet: {
        "s1": 2675784, "s2": 3424512, "s3": 5493280, "s4": 7225216, "s050": 413472, "s100": 881960, "s150": 1367232,
    },
    EfficientFormerV2: {"s0": 3245904, "s1": 5735112, "s2": 12131536, "l": 25551520},
    EfficientViT: {
        "b0": 682608, "b1": 4643936, "b2": 14977008, "b3": 38997440, "l1": 38037280, "l2": 49090208, "l3": 193998144,
    },
}  # fmt: skip
"""Of the published networks without their classifier."""
SMALL: dict[str, Callable[..., Backbone]] = {
    "mobilenet-v4": lambda **more: MobileNetV4("conv_small_035", **more),
    "mobilenet-v4-attention": lambda **more: MobileNetV4("hybrid_medium_075", **more),
    **{
        kind.__name__.lower(): lambda kind=kind, **more: kind(**{**kind.conformance[0], **more})
        for kind in (RepViT, FastViT, MobileOne, EdgeNeXt, StarNet, EfficientFormerV2, EfficientViT)
    },
    "efficientvit-l": lambda **more: EfficientViT(**{**EfficientViT.conformance[1], **more}),
    "repvit-first": lambda **more: RepViT(**{**RepViT.conformance[1], **more}),
}
every_small = pytest.mark.parametrize("build", SMALL.values(), ids=list(SMALL))


@pytest.mark.parametrize("kind", PARAMETERS, ids=lambda kind: kind.__name__)
def test_published_networks_have_their_number_of_parameters(kind: type[Backbone]) -> None:
    found = {}
    for arch in PARAMETERS[kind]:
        with torch.device("meta"):
            found[arch] = sum(p.numel() for p in kind(arch).parameters())  # type: ignore[call-arg]
    assert found == PARAMETERS[kind]


def seeded(model: Any) -> Any:
    """Return a model with statistics of norms and layer scales that are not those it starts with."""
    torch.manual_seed(0)
    for name, tensor in model.state_dict().items():
        if name.endswith(("running_var", "gamma")) or (name.endswith("weight") and tensor.ndim == 1):
            tensor.uniform_(0.5, 1)
        elif name.endswith(("running_mean", "bias")):
            tensor.normal_(0, 0.1)
    return model.eval()


def fuse(module: nn.Module) -> nn.Module:
    """Replace modules as segplug-deploy does."""
    for name, child in [*module.named_children()]:
        setattr(module, name, child.fused() if isinstance(child, Reparameterizable) else fuse(child))
    return module


@torch.no_grad()
@pytest.mark.parametrize("name", ["repvit", "repvit-first", "fastvit", "mobileone"])
def test_parallel_branches_are_one_convolution_for_inference(name: str) -> None:
    model, images = seeded(SMALL[name]()), torch.rand(2, 3, 65, 97)
    before, convolutions = model(images), sum(isinstance(each, nn.Conv2d) for each in model.modules())
    fuse(model)
    for ours, expected in zip(model(images), before, strict=True):
        assert float((ours - expected).abs().max() / expected.abs().max()) < 1e-5
    assert sum(isinstance(each, nn.Conv2d) for each in model.modules()) < convolutions
    assert not any(isinstance(each, Reparameterizable) for each in model.modules())


@torch.no_grad()
@pytest.mark.parametrize("name", ["repvit", "fastvit", "mobileone"])
def test_branches_with_other_norms_than_batch_norm_stay(name: str) -> None:
    model, images = SMALL[name](norm_cfg={"type": "GN", "num_groups": 2}).eval(), torch.rand(1, 3, 64, 64)
    before = model(images)
    torch.testing.assert_close(fuse(model)(images), before)


def test_flat_names_of_timm_are_those_of_the_plain_model() -> None:
    backbone = seeded(SMALL["efficientformerv2"]())
    flat = {
        key.replace("stem.", "stem_", 1).replace("stages.", "stages_", 1): value
        for key, value in backbone.state_dict().items()
    }
    converted = convert(backbone, {**flat, "head.weight": torch.zeros(1)})
    assert converted.format == "TimmFeatures"
    assert converted.weights.keys() - {"head.weight"} == backbone.state_dict().keys()


@torch.no_grad()
def test_attention_biases_are_interpolated_for_other_sizes() -> None:
    backbone = seeded(SMALL["efficientformerv2"]())
    images = torch.rand(1, 3, 64, 64)
    before = backbone(images)[3]
    for name, parameter in backbone.named_parameters():
        if name.endswith("attention_biases"):
            parameter.fill_(3.0)  # the same for all keys: no effect, at any size
    other = SMALL["efficientformerv2"](img_size=128)
    fitting = {key: value for key, value in backbone.state_dict().items() if not key.endswith("attention_biases")}
    other.load_state_dict(fitting, strict=False)
    assert not torch.equal(backbone(images)[3], before)
    torch.testing.assert_close(other.eval()(images)[3], backbone(images)[3])


def test_attention_biases_are_resized_on_load() -> None:
    backbone, larger = SMALL["efficientformerv2"](), SMALL["efficientformerv2"](img_size=128)
    name = "stages.3.blocks.0.token_mixer.attention_biases"
    weights = {**backbone.state_dict(), name: torch.arange(4.0).expand(8, 4)}
    _, report = load_into(larger, {"state_dict": weights, "meta": {}, "path": "x"}, "finetune")
    assert {resized for resized, *_ in report.resized} == {n for n in weights if n.endswith("attention_biases")}
    biases = dict(larger.named_parameters())[name][0].view(4, 4)
    assert (biases.diff(dim=0) > 0).all()
    assert (biases.diff(dim=1) > 0).all()


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (RepViT, {"arch": "m0-9"}, "'m0-9' is not one of m0_9"),
        (MobileNetV4, {"arch": "small"}, "'small' is not one of conv_small"),
        (StarNet, {"arch": {"channels": 8}}, "depths"),
        (FastViT, {"out_indices": (4,)}, "must name maps 0 to 3"),
        (MobileOne, {"frozen_stages": 5}, "5 is not -1"),
    ],
)
def test_a_wrong_argument_is_refused(kind: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**arguments)


def test_frozen_stages_are_not_trained() -> None:
    backbone = SMALL["starnet"](frozen_stages=1).train()
    frozen = {name for name, parameter in backbone.named_parameters() if not parameter.requires_grad}
    assert {name.split(".")[0] + name.split(".")[1] for name in frozen if name.startswith("stages")} == {"stages0"}
    assert any(name.startswith("stem") for name in frozen)
    assert not backbone.stem.training


@every_small
def test_checkpointing_changes_no_gradient(build: Callable[..., Backbone]) -> None:
    images = torch.rand(2, 3, 64, 64)
    gradients = []
    for with_cp in (False, True):
        torch.manual_seed(0)
        backbone = build(with_cp=with_cp).train()
        loss: Any = sum(x.square().mean() for x in backbone(images))
        gradients.append(torch.autograd.grad(loss, next(backbone.parameters()))[0])
    torch.testing.assert_close(*gradients)


@pytest.mark.slow
@every_small
def test_exports_with_dynamic_sizes(build: Callable[..., Backbone]) -> None:
    backbone = seeded(build())
    sides = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    program = torch.export.export(backbone, (torch.rand(2, 3, 127, 95),), dynamic_shapes=(sides,))
    images = torch.rand(3, 3, 101, 130)
    torch.testing.assert_close(program.module()(images), backbone(images), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@every_small
def test_traces_without_a_graph_break(build: Callable[..., Backbone]) -> None:
    backbone = seeded(build())
    torch._dynamo.reset()
    compiled: Callable[[Tensor], tuple[Tensor, ...]] = torch.compile(
        backbone, backend="eager", fullgraph=True, dynamic=True
    )
    with torch.no_grad():
        for size in ((64, 64), (65, 97)):
            images = torch.rand(1, 3, *size)
            torch.testing.assert_close(compiled(images), backbone(images), rtol=1e-4, atol=1e-5)


def official_repvit(key: str, depths: tuple[int, ...]) -> str:
    """Return the authors' name: the stem, then all blocks, of which the strided ones start the stages."""
    stage, _, rest = key.removeprefix("stages.").partition(".")
    first = 1 + sum(depths[: int(stage)]) + 2 * int(stage) if key.startswith("stages.") else 0
    names = {"stem.conv1.": "features.0.0.", "stem.conv2.": "features.0.2."}
    names |= {
        "downsample.pre_block.": f"features.{first - 2}.",
        "downsample.spatial_downsample.": f"features.{first - 1}.token_mixer.0.",
        "downsample.channel_downsample.": f"features.{first - 1}.token_mixer.2.",
        "downsample.ffn.": f"features.{first - 1}.channel_mixer.m.",
    }
    names |= {f"blocks.{i}.": f"features.{first + i}." for i in range(max(depths))}
    rest = rest if key.startswith("stages.") else key
    old = next(name for name in names if rest.startswith(name))
    rest = rest.removeprefix(old)
    inner = {"token_mixer.": "token_mixer.0.", "se.": "token_mixer.1.", "channel_mixer.": "channel_mixer.m."}
    for name, theirs in inner.items():
        if rest.startswith(name):
            rest = theirs + rest.removeprefix(name)
    return (names[old] + rest).replace("mixer.m.conv1.", "mixer.m.0.").replace("mixer.m.conv2.", "mixer.m.2.")


def replaced(key: str, *pairs: tuple[str, Any]) -> str:
    for pattern, text in pairs:
        key = re.sub(pattern, text, key)
    return key


BRANCHES = (
    ("conv_kxk", "rbr_conv"), ("conv_scale", "rbr_scale"), (r"\.identity", ".rbr_skip"), (r"attn\.fc1", "se.reduce"),
    (r"attn\.fc2", "se.expand"),
)  # fmt: skip
OFFICIAL: dict[str, Callable[[str], str]] = {
    "repvit": lambda key: official_repvit(key, (1, 1, 2, 1)),
    "repvit-first": lambda key: official_repvit(key, (1, 1, 1, 1)),
    "mobileone": lambda key: replaced(
        key, (r"^stem", "stage0"), (r"^stages\.(\d)", lambda found: f"stage{int(found[1]) + 1}"), *BRANCHES
    ),
    # One sequence: stage 0, downsampling, stage 1, ..., downsampling, position encoding, stage 3.
    "fastvit": lambda key: replaced(
        key,
        (r"^stem", "patch_embed"), (r"^stages\.3\.blocks", "network.7"),
        (r"^stages\.3\.pos_emb.pos_enc", "network.6.pe"),
        (r"^stages\.(\d)\.blocks", lambda found: f"network.{2 * int(found[1])}"),
        (r"^stages\.(\d)\.downsample", lambda found: f"network.{2 * int(found[1]) - 1}"),
        *BRANCHES, ("large_conv", "lkb_origin"), (r"\.mlp\.", ".convffn."), (r"\.gamma$", ""),
    ),
    "edgenext": lambda key: replaced(
        key,
        (r"^stem", "downsample_layers.0"), (r"^stages\.(\d)\.downsample", r"downsample_layers.\1"),
        (r"\.blocks\.", "."), (r"\.conv_dw\.", ".dwconv."), (r"\.mlp\.fc", ".pwconv"),
    ),
    "efficientvit": lambda key: replaced(
        key,
        (r"^stem\.in_conv", "input_stem.op_list.0"),
        (r"^stem\.res(\d)", lambda found: f"input_stem.op_list.{int(found[1]) + 1}"), (r"\.blocks\.", ".op_list."),
    ),
    "efficientvit-l": lambda key: replaced(
        key,
        (r"^stages\.(\d)", lambda found: f"stages.{int(found[1]) + 1}"), (r"^stem\.in_conv", "stages.0.op_list.0"),
        (r"^stem\.res(\d)", lambda found: f"stages.0.op_list.{int(found[1]) + 1}"), (r"\.blocks\.", ".op_list."),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OFFICIAL)
def test_names_of_the_authors_are_converted(name: str) -> None:
    backbone = SMALL[name]()
    own = backbone.state_dict()
    theirs = {OFFICIAL[name](key): value for key, value in own.items()}
    assert len(theirs) == len(own)
    converted = convert(backbone, theirs)
    assert converted.format.startswith("Official")
    assert {key: value for key, value in converted.weights.items() if own.get(key) is not value} == {}
    assert converted.weights.keys() == own.keys()


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(("kind", "arch"), [(kind, arch) for kind, archs in PARAMETERS.items() for arch in archs])
def test_published_networks_equal_those_of_timm(kind: Any, arch: str) -> None:
    timm = pytest.importorskip("timm")
    size = 224 if kind is EfficientFormerV2 else 160  # the only one that takes no other size there
    theirs = seeded(timm.create_model(f"{kind.__name__.lower()}_{arch}", features_only=True))
    ours = kind(arch, out_indices=range(len(theirs.feature_info.channels())))
    ours.load_state_dict(convert(ours, theirs.state_dict()).weights)
    images = torch.rand(1, 3, size, 224)
    for x, expected in zip(ours.eval()(images), theirs(images), strict=True):
        assert float((x - expected).abs().max()) <= 2e-5 * float(expected.abs().max())
