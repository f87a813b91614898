"""``seg-kernel profile`` and the costs of modules, compared with numbers computed by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from click.testing import CliRunner
from torch import Tensor, nn

from segkernel.errors import UsageError
from segplug_heads.commands.module_costs import module_costs
from segplug_heads.commands.profile import command, tree


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.ReLU())
        self.head = nn.Conv2d(8, 2, 1)
        self.unused = nn.Linear(4, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        return self.head(x) + self.head(x)


def test_costs_are_those_computed_by_hand() -> None:
    costs = module_costs(Small(), torch.zeros(1, 3, 16, 16), repeats=1)
    pixels = 16 * 16
    assert costs["stem"].parameters == 8 * 3 * 9
    assert costs["stem.0"].flops == costs["stem"].flops == 2 * pixels * 8 * 27
    assert (costs["head"].calls, costs["head"].flops) == (2, 2 * 2 * pixels * 2 * 8)
    assert costs[""].flops == costs["stem"].flops + costs["head"].flops
    # Both maps of the stem live at once; then one of them and two outputs of the head, and their sum.
    assert costs["stem"].memory == 2 * 4 * 8 * pixels
    assert costs["head"].memory == 4 * 2 * pixels
    assert costs[""].memory == costs["stem"].memory
    assert costs["head"].shapes == [(1, 2, 16, 16)]
    assert (costs["unused"].calls, costs["unused"].seconds) == (0, 0)


def test_the_tree_has_the_levels_asked_for() -> None:
    costs = module_costs(Small(), torch.zeros(1, 3, 16, 16), repeats=1)
    lines = [line.split()[0] for line in tree(costs, depth=1).splitlines()[1:]]
    assert lines == ["model", "stem", "head", "unused"]
    assert "not called" in tree(costs)
    inside = tree(costs, "stem", 1).splitlines()[1:]
    assert [line[:5] for line in inside] == ["stem ", "  0  ", "  1  "]


def run(*arguments: str) -> Any:
    return CliRunner().invoke(command, arguments, catch_exceptions=True)


def test_the_command_measures_a_config(tmp_path: Path) -> None:
    config = tmp_path / "toy.yaml"
    config.write_text("model: {type: 'segkernel.testing.toys:ToySegmentor'}\n")
    found = run(str(config), "--shape", "32x48", "--repeats", "1", "--json", "--device", "cpu")
    content = json.loads(found.stdout)
    assert content["shape"] == [1, 32, 48]
    assert content["modules"][""]["flops"] > 0
    wrong = run(str(config), "--part", "backbon", "--device", "cpu")
    assert isinstance(wrong.exception, UsageError)
    assert "backbon" in str(wrong.exception)
