"""Config files of MMSegmentation and their bases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from segkernel.config.marks import place_of
from segkernel.errors import ConfigError
from segplug_heads.moving_in.files import read_config


def write(folder: Path, **texts: str) -> Path:
    """Write NAME.py files; return the path of the one called config."""
    for name, text in texts.items():
        (folder / f"{name}.py").write_text(text, "utf-8")
    return folder / "config.py"


def read(folder: Path, **texts: str) -> dict[str, Any]:
    return read_config(write(folder, **texts)).config


def test_it_is_laid_over_its_bases(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        one="model = dict(type='A', head=dict(type='H', n=1), neck=dict(a=1))",
        two="x = [1]",
        config="_base_ = ['one.py', './two.py']\nmodel = dict(head=dict(type='G'), neck=dict(_delete_=True, b=2))",
    )
    # unlike in configs here, another type drops nothing
    assert dict(config) == {"model": {"type": "A", "head": {"type": "G", "n": 1}, "neck": {"b": 2}}, "x": [1]}


def test_values_of_bases_are_referred_to(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        base="a = dict(b=[1, 2])\nn = 3",
        config="_base_ = 'base.py'\nx = [{{_base_.a.b}}, '{{ _base_.n }}', 'n{{_base_.n}}', _base_.a.b[0]]",
    )
    assert config["x"] == [[1, 2], 3, "n3", 1]


def test_read_base_imports_names_that_can_be_changed(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        base="model = dict(head=dict(n=1))\nother = 2",
        config="from mmengine.config import read_base\nwith read_base():\n    from .base import model, other as here\n"
        "model.merge(dict(head=dict(m=here)))",
    )
    assert dict(config) == {"model": {"head": {"n": 1, "m": 2}}, "here": 2}


def test_names_of_mmsegmentation_are_looked_up_in_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "configs"
    (folder / "_base_").mkdir(parents=True)
    (folder / "_base_" / "run.py").write_text("x = 1")
    for base in ("mmseg::_base_/run.py", "../_base_/run.py"):
        path = write(tmp_path, config=f"_base_ = {base!r}")
        assert read_config(path, folder).config == {"x": 1}
    path = write(tmp_path, config="with read_base():\n    from mmseg.configs._base_.run import *")
    assert read_config(path, folder).config == {"x": 1}


def test_names_of_other_packages_are_looked_up_where_they_are_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mmpretrain/.mim/configs/_base_/old.py", "mmpretrain/configs/_base_/new.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("x = 1")
    (tmp_path / "mmpretrain" / "__init__.py").write_text("raise SystemExit('is not imported')")
    path = write(tmp_path, config="_base_ = 'mmpretrain::_base_/old.py'")
    with pytest.raises(ConfigError, match="it is read if mmpretrain is installed"):
        read_config(path)
    monkeypatch.syspath_prepend(tmp_path)
    assert read_config(path).config == {"x": 1}
    path = write(tmp_path, config="with read_base():\n    from mmpretrain.configs._base_.new import *")
    assert read_config(path).config == {"x": 1}


def test_places_are_those_of_the_files(tmp_path: Path) -> None:
    found = read_config(write(tmp_path, base="\nx = dict(a=1)", config="_base_ = 'base.py'\nx = dict(b=2)"))
    assert place_of(found.config["x"], "a") == f"{tmp_path / 'base.py'}:2:12"
    assert found.line(found.config["x"].places["b"]) == "x = dict(b=2)"


def test_yaml_and_json_are_read(tmp_path: Path) -> None:
    (tmp_path / "base.json").write_text('{"x": {"a": 1}}')
    (tmp_path / "config.yaml").write_text("_base_: base.json\nx: {b: 2}")
    assert read_config(tmp_path / "config.yaml").config == {"x": {"a": 1, "b": 2}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("_base_ = 'config.py'", "a base includes itself"),
        ("_base_ = '../_base_/models/missing.py'", "config.py:1:1 the base ../_base_/models/missing.py is not there"),
        ("_base_ = 3", "a base is a path or a name, not 3"),
        ("with read_base():\n    from os import path", "a base is a file beside this one"),
        ("with read_base():\n    from .missing import x", "config.py:2:5 the base missing.py is not there"),
    ],
)
def test_a_base_that_cannot_be_read_is_named(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", "\\(")):
        read(tmp_path, config=text)


def test_the_number_of_bases_is_limited(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="more than 50 bases"):
        read(tmp_path, base="x = 1", config=f"_base_ = {['base.py'] * 60}")


def test_other_files_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.py"):
        with pytest.raises(ConfigError, match=r"no such file|not a regular file"):
            read_config(path)


def test_classes_of_a_base_can_be_used_and_its_dicts_are_updated_deep(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        base="from mmseg.models import FCNHead\nmodel = dict(type='A', head=dict(n=1, m=1))",
        config="with read_base():\n    from .base import *\nmodel.update(dict(head=dict(type=FCNHead, n=2)))",
    )
    assert dict(config) == {"model": {"type": "A", "head": {"n": 2, "m": 1, "type": "FCNHead"}}}


def test_a_break_outside_of_a_loop_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config.py:1:1 is outside of a loop"):
        read(tmp_path, config="break")
