"""`optimize_for_inference`: the same results, the same parameters where they do not change, each switch alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segkernel import Predictor
from segkernel.interfaces.model import PixelClasses, Segmentor
from segplug_deploy.formats.torchscript import TorchScriptExporter
from segplug_deploy.fusion import drop_unread_maps
from segplug_deploy.inference import fold_batch_norms, optimize_for_inference
from segplug_deploy.labels import FastPixelClasses


class Net(Segmentor):
    """Convolutions and batch norms that may be folded, and others that may not."""

    def __init__(self, classes: int = 6) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.conv1, self.norm1 = nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.BatchNorm2d(8)
        self.branch, self.branch_norm = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)  # its input is used twice
        self.shared, self.norms = nn.Conv2d(8, 8, 1), nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(8)])
        self.pre = nn.BatchNorm2d(8)
        self.head = nn.Conv2d(8, classes, 1)
        self.outputs = {"seg": PixelClasses(classes, classes)}
        self.test_cfg = {"mode": "whole"}
        generator = torch.Generator().manual_seed(0)
        for tensor in self.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.1, 1, generator=generator)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm1(self.conv1(self.stem(images)))
        branch = self.branch(x)
        x = self.branch_norm(branch) + branch
        x = self.norms[0](self.shared(x)) + self.norms[1](self.shared(x))
        return self.head(self.pre(x))

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        return {"seg": self(images)}


@pytest.fixture
def net() -> Net:
    return Net().eval()


IMAGES = torch.randn(2, 3, 70, 90, generator=torch.Generator().manual_seed(0))


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@torch.no_grad()
def test_only_the_batch_norm_of_a_convolution_that_nothing_else_uses_is_folded(net: Net) -> None:
    before = net(IMAGES)
    assert fold_batch_norms(net) == 2
    assert norms(net) == 4
    torch.testing.assert_close(net(IMAGES), before)


class Features(nn.Module):
    """A backbone: feature maps at two strides; a convolution whose result it returns keeps its batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Net().stem
        self.conv, self.norm, self.act = nn.Conv2d(8, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU()

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        x = self.stem(images)
        raw = self.conv(x)
        return x, {"raw": raw, "out": self.act(self.norm(raw))}


@torch.no_grad()
def test_any_module_is_made_faster() -> None:
    backbone = Features().eval()
    x, more = backbone(IMAGES)
    faster = optimize_for_inference(backbone)
    found, others = faster(IMAGES)
    torch.testing.assert_close((found, others), (x, more))
    assert (norms(backbone), norms(faster)) == (2, 1)
    assert optimize_for_inference(nn.Conv2d(3, 3, 1).eval())(IMAGES).shape == IMAGES.shape


@torch.no_grad()
@pytest.mark.parametrize("off", [None, "fold", "onednn", "winograd", "channels_last", "labels"])
def test_logits_are_equal_and_the_model_is_left_as_it_is(net: Net, off: str | None) -> None:
    options: dict = {off: False} if off else {}
    before = net(IMAGES)
    faster = optimize_for_inference(net, **options)
    torch.testing.assert_close(faster(IMAGES), before)
    assert torch.equal(net(IMAGES), before)
    assert norms(net) == 6
    assert norms(faster) == (4 if options.get("fold", True) else 6)
    assert type(faster.outputs["seg"]) is (FastPixelClasses if options.get("labels", True) else PixelClasses)
    assert faster(IMAGES).is_contiguous(memory_format=torch.channels_last) == options.get("channels_last", True)


class Branches(nn.Module):
    """Two convolutions whose results are added, and the one that they are."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x)

    def fused(self) -> nn.Module:
        conv = nn.Conv2d(8, 8, 3, padding=1)
        conv.weight, conv.bias = nn.Parameter(self.a.weight + self.b.weight), nn.Parameter(self.a.bias + self.b.bias)
        return conv


@torch.no_grad()
def test_branches_are_fused_in_a_copy(net: Net, tmp_path: Path) -> None:
    net.stem.append(Branches())
    before = net(IMAGES)
    faster = optimize_for_inference(net, onednn=False)
    assert {type(net.stem[3]), type(faster.stem[3])} == {Branches, nn.Conv2d}
    assert (faster(IMAGES) - before).abs().max() <= 1e-5 * before.abs().max()
    TorchScriptExporter(dynamic=False).export(net, tmp_path / "net.pt", IMAGES[:1])
    names = torch.jit.load(tmp_path / "net.pt").state_dict()
    assert any(name.endswith("stem.3.weight") for name in names)
    assert not any("stem.3.a." in name for name in names)


@torch.no_grad()
def test_1x1_convolutions_of_tokens_keep_their_layout() -> None:
    class Tokens(Net):
        def forward(self, images: Tensor) -> Tensor:
            tokens = self.stem(images).flatten(2).transpose(1, 2)  # (N, L, C)
            return self.head(tokens.transpose(1, 2).unflatten(2, (-1, images.shape[3] // 2)))

    result = optimize_for_inference(Tokens().eval())(IMAGES[:1])
    assert result.stride() == (35 * 45 * 6, 1, 45 * 6, 6)


class Pyramid(nn.Module):
    """Three maps, those of ``out_indices``."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(3 if i == 0 else 8, 8, 3, 2, 1) for i in range(3)])
        self.out_indices = (0, 1, 2)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = {}
        for i, conv in enumerate(self.convs):
            images = conv(images).sigmoid()
            if i in self.out_indices:
                maps[i] = images
        return tuple(maps[i] for i in self.out_indices)


class TwoHeads(Net):
    """``predict`` reads the maps at ``read``, the loss the first one, too."""

    def __init__(self, read: tuple[int, ...]) -> None:
        super().__init__()
        self.backbone, self.read = Pyramid(), read

    def forward(self, images: Tensor) -> Tensor:
        maps = self.backbone(images)
        return sum(self.head(maps[i]).mean((2, 3), keepdim=True) for i in self.read)  # type: ignore[return-value]

    def loss(self, images: Tensor, targets: object) -> dict[str, Tensor]:
        return {"loss": self.backbone(images)[0].mean()}


@torch.no_grad()
@pytest.mark.parametrize(("read", "kept"), [((-1,), (2,)), ((0, 2), (0, 2)), ((2, 1, 0), (0, 1, 2))])
def test_maps_that_predict_does_not_read_are_not_kept(read: tuple[int, ...], kept: tuple[int, ...]) -> None:
    model = TwoHeads(read).eval()
    faster = optimize_for_inference(model)
    torch.testing.assert_close(faster.predict(IMAGES)["seg"], model.predict(IMAGES)["seg"])
    assert faster.backbone.out_indices == kept
    assert [each is not None for each in faster.backbone(IMAGES)] == [i in kept for i in range(3)]
    for other in (model, optimize_for_inference(model, memory=False)):
        assert other.backbone.out_indices == (0, 1, 2)
        assert other.loss(IMAGES, None)["loss"] > 0


@torch.no_grad()
def test_a_map_of_which_only_the_size_is_used_is_kept() -> None:
    class Shapes(TwoHeads):
        def predict(self, images: Tensor) -> dict[str, Tensor]:
            maps = self.backbone(images)
            return {"seg": nn.functional.interpolate(maps[2], size=maps[0].shape[2:])}

    model = Shapes((2,)).eval()
    assert drop_unread_maps(model) == 0
    assert model.backbone.out_indices == (0, 1, 2)
    assert None not in model.backbone(IMAGES)


@pytest.mark.slow
def test_a_compiled_model_has_the_same_logits(net: Net) -> None:
    if shutil.which("c++") is None and shutil.which("g++") is None:
        pytest.skip("no C++ compiler")
    faster = optimize_for_inference(net, compile=True)
    with torch.no_grad():
        torch.testing.assert_close(faster.predict(IMAGES)["seg"], net.predict(IMAGES)["seg"])


def test_parameters_that_do_not_change_take_no_memory(net: Net) -> None:
    faster = optimize_for_inference(net, channels_last=False)
    shared = {id(tensor) for tensor in net.parameters()}
    assert {name for name, tensor in faster.named_parameters() if id(tensor) not in shared} == {
        f"stem.0.layers.{index}.{name}" for index in range(2) for name in ("weight", "bias")
    }  # fmt: skip


def test_a_model_that_does_not_run_on_noise_is_not_folded(net: Net) -> None:
    def refuse(images: Tensor) -> Tensor:
        raise ValueError("images of 7 channels only")

    net.forward = refuse  # type: ignore[method-assign]
    assert fold_batch_norms(net) == 0
    assert norms(net) == 6


def test_folding_that_changes_the_logits_is_undone(net: Net, caplog: pytest.LogCaptureFixture) -> None:
    net.head.register_forward_hook(lambda *_: torch.full((1, 6, 2, 2), float(norms(net))))
    assert fold_batch_norms(net) == 0
    assert norms(net) == 6
    assert "batch norms are not folded" in caplog.text


def test_a_predictor_optimises_on_request_and_leaves_a_built_module_alone(net: Net) -> None:
    image = np.random.default_rng(0).integers(0, 255, (300, 200, 3), np.uint8)
    plain, fast = (Predictor(net, classes=list("abcdef"), optimize=optimize) for optimize in (None, True))
    net.head.bias.data[2] += 1e6  # seen by the plain one, and through the shared parameter by the other
    wanted = plain(image).labels
    assert wanted.unique().tolist() == [2]
    assert plain.model is fast.model is net
    assert torch.equal(fast(image).labels, wanted)
    assert norms(net) == 6


def test_holes_in_the_heap_are_given_up_when_it_is_loaded_and_before_the_second_pass(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[None] = []
    monkeypatch.setattr("segplug_deploy.inference.give_up_holes", lambda: calls.append(None))
    faster = optimize_for_inference(net)
    counts = [len(calls)]
    for _ in range(3):
        faster(IMAGES)
        counts.append(len(calls))
    assert counts == [1, 1, 2, 2]
    optimize_for_inference(net, memory=False)
    assert len(calls) == 2
