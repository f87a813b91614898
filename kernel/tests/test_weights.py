from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from segkernel import checkpoint, weights
from segkernel.errors import CheckpointError
from segkernel.nn import fit_shapes


class Net(nn.Module):
    """A stem, and a table that depends on the size."""

    def __init__(self, channels: int = 3, cells: int = 4, classes: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 4, 3)
        self.table = nn.Parameter(torch.zeros(cells, 2))
        self.head = nn.ModuleDict({"conv_seg": nn.Conv2d(4, classes, 1)})

    def resize_weight(self, name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor | None:
        return value[:1].expand(shape).clone() if name == "table" else None


def net(**more: int) -> Net:
    torch.manual_seed(0)
    model = Net(**more)
    nn.init.normal_(model.table)
    return model


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_the_first_convolution_takes_other_channel_counts(channels: int) -> None:
    given = net().state_dict()
    resized = fit_shapes(net(channels=channels), given)
    grey = torch.ones(1, 1, 5, 5)
    ours = nn.functional.conv2d(grey.expand(1, channels, 5, 5), given["stem.weight"])
    theirs = nn.functional.conv2d(grey.expand(1, 3, 5, 5), net().stem.weight)
    if channels % 3 == 0:
        torch.testing.assert_close(ours, theirs)
    assert resized == [("stem.weight", (4, 3, 3, 3), (4, channels, 3, 3))]


def test_a_module_resizes_its_own_weights() -> None:
    given = net().state_dict()
    fit_shapes(net(cells=9), given)
    assert torch.equal(given["table"], net().table[:1].expand(9, 2))


def test_strict_loading_resizes_nothing(tmp_path: Path) -> None:
    torch.save(net().state_dict(), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="table"):
        weights.load_into(net(cells=9), tmp_path / "a.pth", "strict")


def test_the_report_lists_resized_tensors(tmp_path: Path) -> None:
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


def test_classes_of_other_names_are_not_matched_by_position(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a.pth", {"state_dict": net().state_dict(), "meta": {"classes": ["road", "sky", "car"]}})
    model = net()
    nn.init.zeros_(model.head["conv_seg"].weight)
    weights.load_into(model, tmp_path / "a.pth", "finetune", classes=["car", "cat", "dog"])
    assert torch.equal(model.head["conv_seg"].weight[0], net().head["conv_seg"].weight[2])
    assert model.head["conv_seg"].weight[1:].abs().sum() == 0
