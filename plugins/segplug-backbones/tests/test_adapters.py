"""LoRA and AdaptFormer: what trains, names of weights, merging, and every transformer of the package."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segkernel import build
from segkernel.errors import ConfigError
from segplug_backbones import (
    EVA02,
    MAE,
    PCPVT,
    SVT,
    BEiT,
    DINOv2,
    DINOv3,
    MixVisionTransformer,
    ResNet,
    SwinTransformer,
    SwinTransformerV2,
    VisionTransformer,
)
from segplug_backbones.adapters import AdaptFormer, LoRA

PLAIN: Any = {"embed_dims": 16, "num_layers": 2, "num_heads": 2, "feedforward_channels": 24}
VIT: Any = {"img_size": 32, "embed_dims": 16, "num_layers": 2, "num_heads": 2}
WINDOWS: Any = {"embed_dims": 8, "depths": (2, 1), "num_heads": (1, 2), "window_size": 4, "strides": (4, 2),
                "out_indices": (0, 1)}  # fmt: skip
TWINS: Any = {"embed_dims": (8, 16), "depths": (1, 2), "num_heads": (1, 2), "strides": (4, 2), "mlp_ratios": (2, 2),
              "sr_ratios": (2, 1), "patch_sizes": (4, 2), "out_indices": (0, 1)}  # fmt: skip
BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "vit": lambda **more: VisionTransformer(**VIT, **more),
    "beit": lambda **more: BEiT(**VIT, **more),
    "mae": lambda **more: MAE(**VIT, **more),
    "swin": lambda **more: SwinTransformer(**WINDOWS, **more),
    "swin_v2": lambda **more: SwinTransformerV2(
        {"embed_dims": 8, "depths": [2, 1], "num_heads": [1, 2]}, window_size=4, out_indices=(0, 1), **more
    ),
    "mit": lambda **more: MixVisionTransformer(
        embed_dims=8, num_layers=(1, 1, 1, 1), num_heads=(1, 2, 5, 8), **more
    ),
    "pcpvt": lambda **more: PCPVT(**TWINS, **more),
    "svt": lambda **more: SVT(**TWINS, windiow_sizes=(4, 4), **more),
    "dinov2": lambda **more: DINOv2(PLAIN, img_size=56, **more),
    "dinov3": lambda **more: DINOv3(PLAIN, **more),
    "eva02": lambda **more: EVA02(PLAIN, img_size=56, **more),
}  # fmt: skip
every_transformer = pytest.mark.parametrize("build_backbone", BUILDERS.values(), ids=list(BUILDERS))
IMAGES = torch.rand(2, 3, 56, 64, generator=torch.Generator().manual_seed(0))


def trained(model: nn.Module) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def disturb(model: nn.Module) -> None:
    """Give the added parameters values, as training does."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if name in trained(model):
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)


def fused(model: nn.Module) -> nn.Module:
    """Return a copy as exporters make it."""
    copied = copy.deepcopy(model)
    for parent in [*copied.modules()]:
        for name, child in parent.named_children():
            if hasattr(child, "fused"):
                setattr(parent, name, child.fused())
    return copied


def randomised(model: nn.Module) -> nn.Module:
    """Return a model whose norms and layer scales are no longer those that make blocks start as the identity."""
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    return model.eval()


def maps(model: nn.Module) -> Tensor:
    return torch.cat([m.flatten() for m in model(IMAGES)])


@every_transformer
def test_lora_trains_alone_starts_without_effect_and_merges(build_backbone: Callable[..., nn.Module]) -> None:
    torch.manual_seed(0)
    plain = randomised(build_backbone())
    adapted = build_backbone(adapt=LoRA(rank=2)).eval()
    own = plain.state_dict()
    assert own.keys() == {name for name in adapted.state_dict() if "lora_" not in name}
    assert trained(adapted)
    assert all(name.endswith(("lora_A", "lora_B")) for name in trained(adapted))
    assert adapted.load_state_dict(own, strict=False).unexpected_keys == []
    torch.testing.assert_close(maps(adapted), maps(plain), rtol=0, atol=1e-6)
    disturb(adapted)
    maps(adapted).square().mean().backward()
    assert all(parameter.grad is not None for name, parameter in adapted.named_parameters() if name in trained(adapted))
    with torch.no_grad():
        changed, merged = maps(adapted), fused(adapted)
        assert (changed - maps(plain)).abs().max() > 1e-3
        torch.testing.assert_close(maps(merged), changed, rtol=1e-5, atol=1e-5)
    assert merged.state_dict().keys() == own.keys()


@every_transformer
def test_adaptformer_trains_alone_and_starts_without_effect(
    build_backbone: Callable[..., nn.Module], request: pytest.FixtureRequest
) -> None:
    if request.node.callspec.id == "mit":
        with pytest.raises(ConfigError, match="feed-forward"):
            build_backbone(adapt=AdaptFormer())
        return
    torch.manual_seed(0)
    plain = randomised(build_backbone())
    adapted = build_backbone(adapt=AdaptFormer(channels=4, scale=1.0)).eval()
    assert adapted.load_state_dict(plain.state_dict(), strict=False).unexpected_keys == []
    assert all(".adapter." in name for name in trained(adapted))
    torch.testing.assert_close(maps(adapted), maps(plain), rtol=0, atol=1e-6)
    disturb(adapted)
    copied = copy.deepcopy(adapted)
    assert (maps(adapted) - maps(plain)).abs().max() > 1e-3
    assert torch.equal(maps(copied), maps(adapted))


def test_lora_updates_the_weight_by_a_matrix_of_low_rank() -> None:
    backbone = DINOv2(PLAIN, img_size=56, adapt=LoRA(rank=2, alpha=6, mlp=True))
    disturb(backbone)
    layer = backbone.blocks[1].mlp.fc1
    x, weight = torch.rand(5, 16), layer._parameters["weight"]
    expected = x @ (weight + 3 * layer.lora_B @ layer.lora_A).T + layer.bias
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer.fused()(x), expected)
    assert len(trained(backbone)) == 2 * 2 * 4  # two matrices of four layers in two blocks


def test_an_adapted_backbone_has_one_line_in_a_config(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(DINOv2(PLAIN, img_size=56).state_dict(), tmp_path / "weights.pth")
    spec = {"type": "DINOv2", "arch": PLAIN, "img_size": 56, "pretrained": str(tmp_path / "weights.pth")}
    with caplog.at_level("INFO"):
        backbone = build("backbones", {**spec, "adapt": {"type": "LoRA", "rank": 4}})
    assert "LoRA in 4 layers: 768 parameters of the backbone train, 13,728 are frozen" in caplog.text
    torch.testing.assert_close(maps(backbone), maps(build("backbones", spec)))


def test_it_trains_resumes_exactly_and_leaves_the_frozen_weights_alone() -> None:
    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        maps(model).square().mean().backward()
        optimizer.step()

    def adapted() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = DINOv3(PLAIN, adapt=LoRA(rank=2)).train()
        return model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)

    torch.manual_seed(0)
    model, optimizer = adapted()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    step(model, optimizer)
    resumed, other = adapted()
    resumed.load_state_dict(copy.deepcopy(model.state_dict()))
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(model, optimizer)
    step(resumed, other)
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in resumed.state_dict().items())
    assert all(torch.equal(value, after[name]) == (name not in trained(model)) for name, value in before.items())


@torch.no_grad()
def test_an_adapted_backbone_compiles_and_exports() -> None:
    for adapter in (LoRA(rank=2, mlp=True), AdaptFormer(channels=4)):
        backbone = DINOv2(PLAIN, img_size=56, adapt=adapter).eval()
        disturb(backbone)
        torch._dynamo.reset()
        compiled = torch.compile(backbone, backend="eager", fullgraph=True)
        exported = torch.export.export(backbone, (IMAGES,)).module()
        for other in (compiled, exported):
            torch.testing.assert_close(maps(other), maps(backbone))


@pytest.mark.parametrize("adapter", [LoRA(), AdaptFormer()])
def test_a_network_without_attention_is_refused(adapter: Any) -> None:
    with pytest.raises(ConfigError, match="ResNet"):
        adapter(ResNet(18))


def test_it_builds_on_meta() -> None:
    with torch.device("meta"):
        assert all(p.is_meta for p in DINOv2(PLAIN, adapt=LoRA(mlp=True)).parameters())
        assert all(p.is_meta for p in DINOv2(PLAIN, adapt=AdaptFormer()).parameters())
