"""Overrides on the command line, which follow the rules of files."""

from __future__ import annotations

import pytest

from segkernel.config import load_config
from segkernel.config.marks import place_of
from segkernel.errors import ConfigError

BASE = """
model:
  type: EncoderDecoder
  backbone: {type: ResNet, depth: 50}
  decode_head: {type: PSPHead, channels: 512, num_classes: "${data.num_classes}"}
data: {num_classes: 19}
hooks: [{type: A, interval: 5}, {type: B}]
"""
GOOD = {
    "model.decode_head.channels=256": ("model.decode_head.channels", 256),
    "hooks[0].interval=10": ("hooks[0].interval", 10),
    "hooks[-1].type=C": ("hooks[1]", {"type": "C"}),
    "hooks[1]={type: D, x: 1e-3}": ("hooks[1]", {"type": "D", "x": 1e-3}),
    "hooks+={type: C}": ("hooks[2]", {"type": "C"}),
    "hooks+=[{type: C}, {type: D}]": ("hooks[3]", {"type": "D"}),
    "~hooks[0]": ("hooks", [{"type": "B"}]),
    "~model.backbone.depth": ("model.backbone", {"type": "ResNet"}),
    "~model.decode_head": ("model", {"type": "EncoderDecoder", "backbone": {"type": "ResNet", "depth": 50}}),
    "model.backbone.type=MiT": ("model.backbone", {"type": "MiT"}),
    "model.backbone={depth: 18}": ("model.backbone", {"type": "ResNet", "depth": 18}),
    "model.backbone={_delete_: true, depth: 18}": ("model.backbone", {"depth": 18}),
    "model.decode_head.num_classes=${model.backbone.depth}": ("model.decode_head.num_classes", 50),
    "+model.backbone.with_cp=true": ("model.backbone.with_cp", True),
    "+model.neck.sizes=[1, 2]": ("model.neck.sizes", [1, 2]),
    '+model.rules["a.b"].lr=0.1': ("model.rules", {"a.b": {"lr": 0.1}}),
    "seed=3": ("seed", 3),
    "optim.clip_grad.max_norm=1": ("optim.clip_grad.max_norm", 1),
    "engine.amp=bfloat16": ("engine.amp", "bfloat16"),
    "work_dir=": ("work_dir", None),
    "work_dir=a=b": ("work_dir", "a=b"),
    "work_dir=*.png": ("work_dir", "*.png"),
    "work_dir=50%": ("work_dir", "50%"),
    "work_dir=@x": ("work_dir", "@x"),
    "work_dir='1'": ("work_dir", "1"),
}


def value_at(config, key):
    from segkernel.config.paths import parse_path

    node = config.data
    for step in parse_path(key):
        node = node[step]
    return node


def test_an_override_changes_the_value(load):
    found = {override: value_at(load(BASE, override), key) for override, (key, _) in GOOD.items()}
    assert found == {override: value for override, (_, value) in GOOD.items()}


BAD = {
    "model.decode_head.chanels=256": ("model.decode_head.chanels", "did you mean 'channels'?"),
    "modle.type=X": ("modle", "did you mean 'model'?"),
    "sed=1": ("sed", "did you mean 'seed'?"),
    "optim.clip_grad.max_nrm=1": ("optim.clip_grad.max_nrm", "+optim.clip_grad.max_nrm=... adds a new key"),
    "hooks[7].interval=1": ("hooks", ""),
    "hooks.interval=1": ("hooks", ""),
    "~model.backbone.dept": ("model.backbone.dept", "did you mean 'depth'?"),
    "~hooks[2]": ("hooks", ""),
    "data.num_classes.x=1": ("data.num_classes", ""),
    "model.decode_head.num_classes.x=1": ("model.decode_head.num_classes", ""),
    "model+=3": ("model", ""),
    "model.backbone={depth: [1": ("model.backbone", ""),
    "seed": ("", "write KEY=VALUE"),
    "=3": ("", "write KEY=VALUE"),
    "": ("", "write KEY=VALUE"),
    "~seed=3": ("", "write KEY=VALUE"),
    "+seed": ("", "write KEY=VALUE"),
    "+hooks+=3": ("", "write KEY=VALUE"),
    "a..b=3": ("", "write KEY=VALUE"),
    "a b c": ("", "write KEY=VALUE"),
}


@pytest.mark.parametrize(("override", "expected"), BAD.items())
def test_a_bad_override_is_one_problem_of_the_command_line(problems, override, expected):
    (problem,) = problems(BASE, override)
    assert problem.place == "command line"
    assert problem.path == expected[0]
    assert expected[1] in problem.hint


def test_all_bad_overrides_are_reported_together(problems):
    assert len(problems(BASE, "sed=1", "hooks[9].x=1", "nonsense")) == 3


def test_overrides_apply_in_order(load):
    assert load(BASE, "seed=1", "seed=2")["seed"] == 2


def test_keys_dropped_by_a_changed_type_may_be_set_again(load):
    config = load(BASE, "model.decode_head.type=FCNHead", "model.decode_head.channels=64")
    assert config["model"]["decode_head"] == {"type": "FCNHead", "channels": 64}


def test_an_overridden_value_is_placed_on_the_command_line(load):
    config = load(BASE, "hooks[0].interval=10", "hooks+={type: C}")
    assert place_of(config["hooks"][0], "interval") == "command line"
    assert place_of(config["hooks"][0], "type") == "my.yaml:7:10"
    assert place_of(config["hooks"][2], "type") == "command line"


def test_a_mapping_can_be_loaded_and_overridden():
    source = {"model": {"type": "X", "sizes": (1, 2)}, "seed": 1}
    config = load_config(source, ["model.type=Y", "seed=2"])
    assert config.data == {"model": {"type": "Y"}, "seed": 2}
    assert source == {"model": {"type": "X", "sizes": (1, 2)}, "seed": 1}


def test_a_built_object_in_a_mapping_passes_through():
    model = object()
    config = load_config({"model": model})
    assert config["model"] is model
    assert "<object>" in config.to_yaml()


def test_a_loaded_config_can_be_loaded_again_with_overrides(load):
    config = load_config(load(BASE), ["data.num_classes=3"])
    assert config["model"]["decode_head"]["num_classes"] == 3
    assert config.name == "my"


def test_an_item_of_a_list_is_appended_to_like_a_key():
    config = {"data": {"crop_size": [1, 2], "scales": [[1], [2]]}}
    assert load_config(config, ["data.scales[1]+=3"])["data"]["scales"] == [[1], [2, 3]]
    with pytest.raises(ConfigError, match="cannot append to 1"):
        load_config(config, ["data.crop_size[0]+=3"])
