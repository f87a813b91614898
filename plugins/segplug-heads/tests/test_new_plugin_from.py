"""``seg-kernel new-plugin --from``: modules written for MMSegmentation become modules of a plugin, without running."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from segkernel.errors import UsageError
from segplug_heads.new_plugin.command import command
from segplug_heads.new_plugin.rewriting.edits import Source
from segplug_heads.new_plugin.rewriting.former import EQUIVALENTS, shim_module, shims
from segplug_heads.new_plugin.rewriting.module import Moved, move_modules

HEAD = '''\
"""Two ways to look at a map."""
import torch.nn as nn, math
from mmcv.cnn import (ConvModule,
                      build_norm_layer)  # layers
from mmcv.runner import BaseModule, auto_fp16
from timm.models.layers import trunc_normal_
from IPython import embed

from mmseg.ops import resize
from ..builder import HEADS
from .decode_head import BaseDecodeHead
from mmseg.models.utils import *


class Block(BaseModule):
    def __init__(self, width, norm_cfg=dict(type='BN')):
        super().__init__(init_cfg=None)
        self.norm = build_norm_layer(norm_cfg, width)[1]  # kept
        trunc_normal_(nn.Conv2d(1, 1, 1).weight)


@HEADS.register_module(name='Ünusual', force=True)
class MyHead(BaseDecodeHead):
    """A head."""

    def __init__(self, depth, size=3, sizes=(1, 2), ratio=None, act=nn.ReLU, **kwargs):
        super(MyHead, self).__init__(input_transform='multiple_select', **kwargs)
        params = kwargs['params']
        self.width = params['embed_dim'] + kwargs.get('extra', 2)
        self.conv = ConvModule(self.width, self.channels, 1)

    @auto_fp16()
    def forward(self, inputs):
        x = self._transform_inputs(inputs)
        # the finest map first
        x = resize(input=x[1], size=x[0].shape[2:], align_corners=False, warning=False)
        return self.cls_seg(self.conv(x))

    def losses(self, seg_logit, seg_label):
        return {}
'''
BACKBONE = """\
import torch
from torch import nn
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from other_lab import magic

from .blocks import Part


@MODELS.register_module()
class MyNet(BaseModule):
    def __init__(self, dims=[8, 16], depths=[2, 3], drop_path_rate=0.1, pretrained=None, init_cfg=None):
        super().__init__(init_cfg)
        rates = [x.item() for x in torch.linspace(0, drop_path_rate, sum(depths))]
        self.stages = nn.ModuleList([Part(3, dims[0], 4), Part(dims[0], dims[1], 2)])

    def forward(self, x):
        outs = []
        for stage in self.stages:
            x = stage(x)
            outs.append(x)
        return outs
"""
BLOCKS = """\
from torch import nn


class Part(nn.Module):
    def __init__(self, before, width, stride):
        super().__init__()
        self.conv = nn.Conv2d(before, width, 3, stride, 1)

    def forward(self, x):
        return self.conv(x).relu()
"""
LOSS = """\
import torch.nn.functional as F
from torch import nn

from ..builder import LOSSES
from .utils import weighted_loss, weight_reduce_loss


@LOSSES.register_module
class MyLoss(nn.Module):
    def __init__(self, loss_weight=1.0, loss_name='loss_my'):
        super().__init__()
        self.loss_weight, self._loss_name = loss_weight, loss_name

    def forward(self, pred, target, weight=None, avg_factor=None, ignore_index=255):
        loss = F.cross_entropy(pred, target, ignore_index=ignore_index, reduction='none')
        return self.loss_weight * weight_reduce_loss(loss, weight, 'mean', avg_factor)

    @property
    def loss_name(self):
        return self._loss_name
"""


def write(folder: Path, **texts: str) -> list[Path]:
    """Write modules and return their paths."""
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.py").write_text(text, "utf-8")
    return [folder / f"{name}.py" for name in texts]


def move(folder: Path, **texts: str) -> Moved:
    return move_modules(write(folder, **texts), "segplug_new")


def test_a_head_is_rewritten_in_place(tmp_path: Path) -> None:
    moved = move(tmp_path, my_head=HEAD)
    text = moved.files["src/segplug_new/my_head.py"]
    ast.parse(text)
    assert text.startswith('"""Two ways to look at a map."""\n')
    assert "from segkernel.nn import ConvModule, DecodeHead, MultiLevelHeadArguments, build_norm, resize\n" in text
    assert "from torch.nn.init import trunc_normal_\n" in text
    assert "from segplug_new.former import BaseModule\n" in text
    assert "build_norm(norm_cfg, width)[1]  # kept" in text
    assert "class MyHead(DecodeHead):" in text
    assert "self.select(inputs)\n        # the finest map first\n" in text
    assert 'resize(x=x[1], size=x[0].shape[2:], align_corners=False, mode="nearest")' in text
    assert "def forward(self, inputs):" in text
    for gone in ("mmcv", "mmseg", "register_module", "IPython", "auto_fp16", "_transform_inputs", "kwargs["):
        assert gone not in text
    (entry,) = moved.components
    assert (entry.group, entry.name, entry.value) == ("heads", "Ünusual", "segplug_new.my_head:MyHead")


def test_arguments_of_a_head_get_annotations(tmp_path: Path) -> None:
    text = move(tmp_path, my_head=HEAD).files["src/segplug_new/my_head.py"]
    cls = next(node for node in ast.parse(text).body if getattr(node, "name", "") == "MyHead")
    constructor = next(node for node in ast.walk(cls) if getattr(node, "name", "") == "__init__")
    assert isinstance(constructor, ast.FunctionDef)
    assert ast.unparse(constructor.args) == (
        "self, depth: Any, size: int=3, sizes: Sequence[int]=(1, 2), ratio: Any=None, act: Any=nn.ReLU, *, "
        "params: Any, extra: Any=2, **kwargs: Unpack[MultiLevelHeadArguments]"
    )
    assert 'fixed_arguments = frozenset({"input_transform"})' in text
    assert '"params": {"embed_dim": 32}' in text
    assert "params = " not in text


def test_what_a_person_must_do_is_marked_with_its_line(tmp_path: Path) -> None:
    moved = move(tmp_path, my_head=HEAD)
    lines = moved.files["src/segplug_new/my_head.py"].splitlines()
    assert [text for path, line, text in moved.todos if "TODO(new-plugin): " + text not in lines[line - 1]] == []
    words = " ".join(text for _, _, text in moved.todos)
    for what in ("the default of act", "loss_by_logits", "depth in this example"):
        assert what in words


def test_a_backbone_declares_its_maps_and_returns_a_tuple(tmp_path: Path) -> None:
    moved = move(tmp_path / "backbones", my_net=BACKBONE, blocks=BLOCKS)
    text = moved.files["src/segplug_new/my_net.py"]
    assert "class MyNet(BaseModule, Backbone):" in text
    assert "self.channels, self.strides = tuple(dims), (4, 8)" in text
    assert "self.pretrained = pretrained" in text
    assert "rates = linear_drop_path_rates(drop_path_rate, sum(depths))" in text
    assert "return tuple(outs)" in text
    assert "from segplug_new.blocks import Part\n" in text
    assert moved.files["src/segplug_new/blocks.py"] == BLOCKS
    assert "other_lab" not in moved.requires  # magic is not used
    assert [entry.group for entry in moved.components] == ["backbones"]


def test_a_name_that_nobody_knows_is_marked(tmp_path: Path) -> None:
    moved = move(tmp_path / "backbones", my_net=BACKBONE)
    assert any("Part of .blocks is not known" in text for _, _, text in moved.todos)


def test_packages_that_the_code_uses_are_required(tmp_path: Path) -> None:
    text = BACKBONE.replace("rates = ", "rates = magic() or ").replace("from .blocks import Part", "Part = nn.Conv2d")
    assert "other_lab" in move(tmp_path / "backbones", my_net=text).requires


def test_the_new_package_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests that come with it pass, and so does a loss under the conformance kit."""
    pytest.importorskip("torch")
    from segkernel.testing import check_object

    head = HEAD.replace("self, depth, ", "self, ").replace("params['embed_dim']", "self.in_channels[1]")
    head = head.replace("params = kwargs['params']", "pass").replace("kwargs.get('extra', 2)", "0")
    paths = write(tmp_path / "backbones", my_head=head, my_net=BACKBONE, blocks=BLOCKS, my_loss=LOSS)
    arguments = [part for path in paths for part in ("--from", str(path))]
    folder = tmp_path / "new"
    result = CliRunner().invoke(command, ["segplug-moved", *arguments, "--out", str(folder)], catch_exceptions=False)
    assert "wrote " in result.output
    assert "todo: " in result.output
    monkeypatch.syspath_prepend(folder / "src")
    ran = []
    for path in sorted((folder / "tests").glob("test_*.py")):
        tests: dict[str, Any] = {"__name__": path.stem}
        exec(compile(path.read_text("utf-8"), path, "exec"), tests)
        for group, name in (
            ("heads", "a_head_returns_logits_and_learns"),
            ("backbones", "a_backbone_returns_the_declared_maps"),
        ):
            ran += [tests[f"test_{name}"](component) or component for component in tests["OF_GROUP"][group]]
    assert ran == ["MyHead", "MyNet"]
    loss = pkgutil.resolve_name("segplug_moved.my_loss:MyLoss")
    assert [str(one) for one in check_object("losses", loss) if not one.ok] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("print 'hello'\n", r"my_head\.py:1 is not Python 3"),
        ("class Head:\n    pass\n", "no class"),
        ("\0", "is not Python 3"),
        ("", "no class"),
    ],
)
def test_files_that_cannot_be_taken_over_are_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        move(tmp_path, my_head=text)


def test_a_missing_file_and_two_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        move_modules([tmp_path / "absent.py"], "segplug_new")
    (tmp_path / "a").mkdir()
    same = [*write(tmp_path, my_loss=LOSS), *write(tmp_path / "a", my_loss=LOSS)]
    with pytest.raises(UsageError, match="same name"):
        move_modules(same, "segplug_new")
    (tmp_path / "latin.py").write_bytes("# größe\n".encode("latin-1"))
    with pytest.raises(UsageError, match="UTF-8"):
        move_modules([tmp_path / "latin.py"], "segplug_new")


def test_nothing_is_executed(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    move(tmp_path, my_loss=f"open({str(marker)!r}, 'w')\n{LOSS}")
    assert not marker.exists()


def test_every_name_in_the_table_exists() -> None:
    pytest.importorskip("torch")

    assert not [
        name for name, (module, new) in EQUIVALENTS.items() if not hasattr(importlib.import_module(module), new)
    ]


@pytest.mark.parametrize("name", sorted(shims()))
def test_former_names_stand_alone(name: str) -> None:
    namespace: dict[str, object] = {"__name__": "former"}
    pytest.importorskip("torch")
    exec(shim_module({name}), namespace)
    assert name in namespace


def test_edits_keep_positions_in_bytes() -> None:
    source = Source("é = 1  # ü\nß = é\n")
    first, second = source.tree.body
    assert isinstance(second, ast.Assign)
    source.replace(second.value, "2")
    source.insert_after(first, "x = 3")
    source.insert_before(second, "# ö")
    assert source.result() == "é = 1  # ü\nx = 3\n# ö\nß = 2\n"
