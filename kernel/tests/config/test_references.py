"""``${...}``: resolution, allowed places, and errors."""

from __future__ import annotations

import pytest

from segkernel.config import load_config
from segkernel.config.marks import place_of
from segkernel.errors import ConfigError

DATA = "data: {num_classes: 19, crop_size: [512, 1024], align_corners: false, micro_batch: null}\n"


def test_a_whole_reference_keeps_the_type(load):
    config = load(DATA + "model: {a: '${data.num_classes}', b: '${data.crop_size}', c: '${data.align_corners}'}")
    assert config["model"] == {"a": 19, "b": [512, 1024], "c": False}


def test_an_unquoted_reference_in_block_style_works(load):
    assert load(DATA + "model:\n  a: ${data.num_classes}\n")["model"] == {"a": 19}


def test_a_reference_inside_a_string_is_interpolated(load):
    config = load(DATA + "work_dir: runs/${data.num_classes}-${data.crop_size[1]}-${data.align_corners}")
    assert config["work_dir"] == "runs/19-1024-false"


def test_references_may_be_nested(load):
    assert load(DATA + "seed: 0\nmodel:\n  which: num_classes\n  n: ${data.${model.which}}")["model"]["n"] == 19


def test_a_reference_may_name_a_reference(load):
    assert load(DATA + "model: {a: '${data.num_classes}', b: '${model.a}'}")["model"]["b"] == 19


def test_the_path_of_a_reference_may_contain_a_reference(load):
    assert load("model: {a: {x: 3}, b: '${model.a}', c: '${model.b.x}'}")["model"]["c"] == 3


def test_a_referenced_mapping_is_a_copy(load):
    model = load("model: {a: {x: 3}, b: '${model.a}'}")["model"]
    model["a"]["x"] = 4
    assert model["b"] == {"x": 3}


def test_two_dollars_escape_a_reference(load):
    assert load("work_dir: 'runs/$${HOME}'")["work_dir"] == "runs/${HOME}"


def test_an_escaped_string_stays_escaped_when_referenced(load):
    config = load("work_dir: '$${seed}'\nseed: 3\nload_from: '${work_dir}/x'")
    assert config["load_from"] == "${seed}/x"


def test_references_see_overrides(load):
    config = load(DATA + "model:\n  a: ${data.num_classes}", "data.num_classes=3")
    assert config["model"]["a"] == 3


def test_references_see_values_that_override_a_base(load):
    config = load("_base_: base.yaml\ndata: {num_classes: 4}", base=DATA + "model:\n  a: ${data.num_classes}")
    assert config["model"]["a"] == 4


def test_negative_and_quoted_steps_work(load):
    config = load("""hooks: [{type: A}, {type: B}]\nmodel: {"a.b": 3, x: '${hooks[-1].type}', y: '${model["a.b"]}'}""")
    assert (config["model"]["x"], config["model"]["y"]) == ("B", 3)


def test_the_place_of_a_resolved_value_is_that_of_its_reference(load):
    config = load(DATA + "model: {a: '${data.crop_size}'}")
    assert place_of(config["model"], "a") == "my.yaml:2:9"
    assert place_of(config["model"]["a"], 0) == "my.yaml:1:37"


BAD = {
    "${data.num_clases}": ("${data.num_clases} does not exist: data has no 'num_clases'", "'num_classes'"),
    "${date.num_classes}": ("${date.num_classes} does not exist: the config has no 'date'", "'data'"),
    "${data.num_classes.x}": ("${data.num_classes.x} does not exist: data.num_classes is 19", ""),
    "${data.crop_size[2]}": ("${data.crop_size[2]} does not exist: data.crop_size is [512, 1024]", "512"),
    "${}": ("${} is not a valid reference", "as in"),
    "${data..x}": ("${data..x} is not a valid reference", "as in"),
    "x ${data": ("unclosed reference in 'x ${data'", "$${"),
    "size ${data.crop_size}": ("${data.crop_size} is [512, 1024], which does not fit into a string", ""),
    "${model.a}": ("circular reference: model.a -> model.a", ""),
    "${model}": ("circular reference: model -> model", ""),
}


@pytest.mark.parametrize(("text", "expected"), BAD.items())
def test_a_bad_reference_is_named_with_its_place(problems, text, expected):
    found = problems(f"{DATA}model: {{a: '{text}'}}")
    assert found[0].message == expected[0]
    assert expected[1] in found[0].hint
    assert found[0].place.startswith("my.yaml:2:")
    assert found[0].path.startswith("model.a")


def test_a_cycle_of_several_references_is_shown(problems):
    found = problems("model: {a: '${model.b}', b: '${model.c}', c: '${model.a}'}")
    assert found[0].message == "circular reference: model.b -> model.c -> model.a -> model.b"


def test_all_bad_references_are_reported_together(problems):
    found = problems(DATA + "model: {a: '${data.x}', b: '${data.y}'}", "sed=1")
    assert [problem.path for problem in found] == ["sed", "model.a", "model.b"]


def chain(length, first, link):
    """Return a mapping in which each value is made from the one before."""
    return {"data": {"train": {"a0": first, **{f"a{i}": link(f"${{data.train.a{i - 1}}}") for i in range(1, length)}}}}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (chain(40, "xx", lambda one: one + one), "references hold more than"),
        (chain(40, [1], lambda one: [one, one]), "references hold more than"),
        (chain(40, "x" * 100_000, lambda one: one + one), "references hold more than"),
        (chain(5000, 1, lambda one: one), "references are nested too deeply, starting at "),
    ],
    ids=["texts", "lists", "long texts", "a chain"],
)
def test_references_count_towards_the_size_of_a_config(config, said):
    with pytest.raises(ConfigError, match=said):
        load_config(config)


def test_a_chain_of_fifty_references_is_allowed():
    config = load_config(chain(50, 1, lambda one: one))
    assert config["data"]["train"]["a49"] == 1


def test_the_number_of_bases_is_limited(tmp_path):
    (tmp_path / "b0.yaml").write_text("seed: 1")
    for index in range(1, 100):
        (tmp_path / f"b{index}.yaml").write_text(f"_base_: b{index - 1}.yaml")
    (tmp_path / "same.yaml").write_text(f"_base_: [{'b0.yaml, ' * 1000}]")
    assert load_config(tmp_path / "b40.yaml")["seed"] == 1
    for name in ("b99.yaml", "same.yaml"):
        with pytest.raises(ConfigError, match="includes too many base configs"):
            load_config(tmp_path / name)
