from __future__ import annotations

import pickle
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segkernel import checkpoint, weights
from segkernel.errors import CheckpointError
from segkernel.interfaces.model import WeightLayout


class Net(nn.Module):
    """A stem, and a table that depends on the size."""

    def __init__(self, channels: int = 3, cells: int = 4, classes: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 4, 3)
        self.table = nn.Parameter(torch.zeros(cells, 2))
        self.head = nn.ModuleDict({"conv_seg": nn.Conv2d(4, classes, 1)})

    def resize_weight(self, name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor | None:
        return value[:1].expand(shape).clone() if name == "table" else None


class Theirs(WeightLayout):
    """Names with a prefix."""

    def matches(self, module: nn.Module, keys: Collection[str]) -> bool:
        return all(key.startswith("their_") for key in keys)

    def convert(self, module: nn.Module, given: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key.removeprefix("their_"): value for key, value in given.items()}


def net(**more: int) -> Net:
    torch.manual_seed(0)
    model = Net(**more)
    nn.init.normal_(model.table)
    return model


@pytest.fixture
def layouts(monkeypatch: pytest.MonkeyPatch) -> None:
    known = [("Theirs", Theirs())]
    monkeypatch.setattr(weights, "_layouts", lambda wanted: [each for each in known if wanted in (None, each[0])])


def test_our_own_names_are_not_converted(layouts: None) -> None:
    prepared = weights.prepare(net(), net().state_dict())
    assert (prepared.layout, prepared.resized) == ("", [])


def test_a_layout_is_recognised_by_its_keys(layouts: None, tmp_path: Path) -> None:
    torch.save({f"their_{key}": value for key, value in net().state_dict().items()}, tmp_path / "a.pth")
    model = net()
    nn.init.zeros_(model.stem.weight)
    _, report = weights.load_into(model, tmp_path / "a.pth", "strict")
    assert torch.equal(model.stem.weight, net().stem.weight)
    assert "converted from the layout of Theirs" in str(report)


def test_an_unknown_layout_is_an_error() -> None:
    with pytest.raises(CheckpointError, match="no layout 'Nobody'"):
        weights.prepare(net(), net().state_dict(), layout="Nobody")


def test_a_backbone_is_found_in_a_whole_model() -> None:
    whole = {f"backbone.{key}": value for key, value in net().state_dict().items()} | {"head.fc.bias": torch.zeros(2)}
    assert weights.prepare(net(), whole).weights.keys() == net().state_dict().keys()


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_the_first_convolution_takes_other_channel_counts(channels: int) -> None:
    prepared = weights.prepare(net(channels=channels), net().state_dict())
    grey = torch.ones(1, 1, 5, 5)
    ours = nn.functional.conv2d(grey.expand(1, channels, 5, 5), prepared.weights["stem.weight"])
    given = nn.functional.conv2d(grey.expand(1, 3, 5, 5), net().stem.weight)
    if channels % 3 == 0:
        torch.testing.assert_close(ours, given)
    assert prepared.resized == [("stem.weight", (4, 3, 3, 3), (4, channels, 3, 3))]


def test_a_module_resizes_its_own_weights() -> None:
    prepared = weights.prepare(net(cells=9), net().state_dict())
    assert torch.equal(prepared.weights["table"], net().table[:1].expand(9, 2))


def test_nothing_is_resized_where_all_must_fit(tmp_path: Path) -> None:
    torch.save(net().state_dict(), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="table"):
        weights.load_into(net(cells=9), tmp_path / "a.pth", "strict")


def test_the_report_says_what_was_resized(tmp_path: Path) -> None:
    torch.save(net().state_dict(), tmp_path / "a.pth")
    _, report = weights.load_into(net(cells=9), tmp_path / "a.pth", "finetune")
    assert "resized: table from (4, 2) to (9, 2)" in str(report)


def test_rows_of_the_last_convolution_go_to_the_classes_of_the_same_name(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a.pth", {"state_dict": net().state_dict(), "meta": {"classes": ["road", "sky", "car"]}})
    model = net(classes=4)
    before = model.head["conv_seg"].weight.clone()
    _, report = weights.load_into(model, tmp_path / "a.pth", "finetune", classes=["tree", "car", "road", "pole"])
    given, now = net().head["conv_seg"].weight, model.head["conv_seg"].weight
    assert torch.equal(now[1], given[2])
    assert torch.equal(now[2], given[0])
    assert torch.equal(now[0], before[0])
    assert "head.conv_seg.weight: 2 of 4 classes matched by name" in str(report)


def test_equally_many_classes_of_other_names_do_not_inherit_by_position(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a.pth", {"state_dict": net().state_dict(), "meta": {"classes": ["road", "sky", "car"]}})
    model = net()
    nn.init.zeros_(model.head["conv_seg"].weight)
    weights.load_into(model, tmp_path / "a.pth", "finetune", classes=["car", "cat", "dog"])
    assert torch.equal(model.head["conv_seg"].weight[0], net().head["conv_seg"].weight[2])
    assert model.head["conv_seg"].weight[1:].abs().sum() == 0


def test_arrays_of_jax_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **{"Encoder/kernel": np.ones((2, 3), np.float32)})
    assert torch.equal(checkpoint.load(tmp_path / "a.npz")["state_dict"]["Encoder/kernel"], torch.ones(2, 3))


def test_objects_in_an_archive_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.array([{"x": 1}], dtype=object))
    with pytest.raises(CheckpointError, match="holds more than arrays"):
        checkpoint.load(tmp_path / "a.npz")


def test_a_pickle_of_arrays_is_read_without_running_anything(tmp_path: Path) -> None:
    content = {"model": {"conv1_w": np.ones((2, 3), np.float32)}, "__author__": "someone", "matching_heuristics": True}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    assert torch.equal(checkpoint.load(tmp_path / "a.pkl")["state_dict"]["conv1_w"], torch.ones(2, 3))


def test_code_in_a_pickle_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (open, (str(tmp_path / "written"), "w"))

    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": Evil()}))
    with pytest.raises(CheckpointError, match="refused"):
        checkpoint.load(tmp_path / "a.pkl")
    assert not (tmp_path / "written").exists()
