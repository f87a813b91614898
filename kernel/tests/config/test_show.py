"""`Config.explain` and YAML output."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from segkernel.config import load_config
from segkernel.errors import ConfigError

BASE = """
model:
  decode_head: {type: PSPHead, channels: 512, num_classes: "${data.num_classes}"}
  auxiliary_head: {type: FCNHead}
data: {num_classes: 19}
hooks: [{type: A}]
"""
MINE = """
_base_: base.yaml
model:
  ~auxiliary_head:
  decode_head: {channels: 12}
data:
  num_classes: 3
hooks+: [{type: B}]
"""


def test_explain_shows_every_place_newest_first(load):
    assert load(MINE, "model.decode_head.channels=256", base=BASE).explain("model.decode_head.channels") == [
        "model.decode_head.channels: 256",
        "  command line  256",
        "  my.yaml:5:17  12",
        "  base.yaml:3:32  512",
    ]


def test_explain_follows_references(load):
    assert load(MINE, base=BASE).explain("model.decode_head.num_classes") == [
        "model.decode_head.num_classes: 3",
        "  base.yaml:3:47  ${data.num_classes}",
        "    from data.num_classes",
        "      my.yaml:7:3  3",
        "      base.yaml:5:8  19",
    ]


def test_explain_follows_a_reference_to_a_mapping(load):
    lines = load("model: {a: {x: 3}, b: '${model.a}'}").explain("model.b.x")
    assert lines[0] == "model.b.x: 3"
    assert lines[-1].strip() == "my.yaml:1:13  3"


def test_explain_names_the_place_that_removed_a_key(load):
    assert load(MINE, base=BASE).explain("model.auxiliary_head") == [
        "model.auxiliary_head: not set",
        "  my.yaml:4:3  removed",
        "  base.yaml:4:3  {type: FCNHead, ...}",
    ]


def test_explain_names_the_type_that_dropped_a_key(load):
    lines = load(MINE, "model.decode_head.type=FCNHead", base=BASE).explain("model.decode_head.channels")
    assert lines[:2] == [
        "model.decode_head.channels: not set",
        "  my.yaml:5:16  dropped, as type changed from PSPHead",
    ]


def test_explain_shows_appends(load):
    lines = load(MINE, base=BASE).explain("hooks")
    assert lines == ["hooks: [2 items]", "  my.yaml:8:1  + [1 items]", "  base.yaml:6:1  [1 items]"]


@pytest.mark.parametrize("key", ["model.decode_hed", "hooks[4]", "seed", "..", "model.decode_head.channels.x"])
def test_explain_of_an_unknown_key_is_an_error(load, key):
    with pytest.raises(ConfigError):
        load(MINE, base=BASE).explain(key)


def test_yaml_output_loads_back_to_the_same(write):
    values = [
        "1",
        "1e-4",
        "on",
        "null",
        "a: b",
        " x",
        "x ",
        "",
        "${seed}",
        "#",
        "- a",
        "käse",
        "a\nb",
        "'",
        '"',
        "~",
        "\x7f",
    ]
    numbers = [1e-5, 1e20, 0.1, -3, True, None, float("inf"), [], {}, [[1, 2], [3]], (1, 2)]
    mapping = {
        "list": [*values, *numbers],
        "items": [{"a": [{"b": 1}]}, {}, [{"c": 2}]],
        "0": {0: "int"},
        "on": 1,
        "${a": 1,
    }
    config = load_config({"model": mapping, "seed": 1, "hooks": [], "work_dir": "$${seed}"})
    again = load_config(write("again.yaml", config.to_yaml()))
    assert again.data == config.data
    assert json.dumps(again.data) == json.dumps(config.data)


def test_yaml_output_can_contain_places(load):
    from segkernel.config.show import to_yaml

    text = to_yaml(load(MINE, base=BASE).data, places=True)
    assert any(line.split() == ["channels:", "12", "#", "my.yaml:5:17"] for line in text.splitlines())


def test_loading_imports_nothing_heavy():
    code = (
        "import sys; import segkernel.config; assert 'yaml' not in sys.modules;"
        "segkernel.config.load_config({'seed': 1}, ['seed=2']).to_yaml();"
        "import segkernel.cli.config;"
        "print(sorted({'torch', 'numpy', 'cv2', 'rich'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
