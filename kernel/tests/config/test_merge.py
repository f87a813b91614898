"""Bases, deep merge, `_delete_`, changed types, ``key+:`` and ``~key:`` in files."""

from __future__ import annotations

import pytest

from segkernel.config.marks import place_of

BASE = """
model:
  type: EncoderDecoder
  decode_head: {type: PSPHead, channels: 512, pool_scales: [1, 2, 3, 6]}
  auxiliary_head: {type: FCNHead}
hooks:
  - {type: First}
"""


def test_mappings_merge_deep_and_lists_and_scalars_replace(load):
    config = load("_base_: base.yaml\nmodel: {decode_head: {channels: 8, pool_scales: [1]}}", base=BASE)
    assert config["model"]["decode_head"] == {"type": "PSPHead", "channels": 8, "pool_scales": [1]}
    assert config["model"]["auxiliary_head"] == {"type": "FCNHead"}


def test_delete_replaces_a_mapping(load):
    config = load("_base_: base.yaml\nmodel: {decode_head: {_delete_: true, channels: 8}}", base=BASE)
    assert config["model"]["decode_head"] == {"channels": 8}


def test_a_changed_type_drops_the_old_siblings(load):
    config = load("_base_: base.yaml\nmodel: {decode_head: {type: FCNHead, num_convs: 2}}", base=BASE)
    assert config["model"]["decode_head"] == {"type": "FCNHead", "num_convs": 2}


def test_the_same_type_keeps_the_siblings(load):
    config = load("_base_: base.yaml\nmodel: {decode_head: {type: PSPHead}}", base=BASE)
    assert config["model"]["decode_head"]["channels"] == 512


def test_plus_appends_to_a_list(load):
    assert load("_base_: base.yaml\nhooks+: [{type: Second}]", base=BASE)["hooks"] == [
        {"type": "First"},
        {"type": "Second"},
    ]


def test_plus_takes_one_item_without_brackets(load):
    assert load("_base_: base.yaml\nhooks+: {type: Second}", base=BASE)["hooks"][1] == {"type": "Second"}


def test_plus_on_nothing_starts_a_list(load):
    assert load("hooks+: [{type: Second}]")["hooks"] == [{"type": "Second"}]


def test_plus_on_a_value_that_is_not_a_list_is_an_error(problems):
    (problem,) = problems("_base_: base.yaml\nmodel+: [1]", base=BASE)
    assert (problem.path, problem.place) == ("model", "my.yaml:2:1")
    assert "not a list" in problem.message


def test_tilde_removes_a_key(load):
    assert "auxiliary_head" not in load("_base_: base.yaml\nmodel: {~auxiliary_head: }", base=BASE)["model"]


def test_tilde_on_a_missing_key_suggests_a_similar_one(problems):
    (problem,) = problems("_base_: base.yaml\nmodel: {~auxilary_head: }", base=BASE)
    assert (problem.path, problem.place) == ("model.auxilary_head", "my.yaml:2:9")
    assert "'auxiliary_head'" in problem.hint


def test_tilde_takes_no_value(problems):
    (problem,) = problems("_base_: base.yaml\nmodel: {~auxiliary_head: 3}", base=BASE)
    assert "takes no value" in problem.message


def test_delete_must_be_true_or_false(problems):
    (problem,) = problems("_base_: base.yaml\nmodel: {_delete_: maybe}", base=BASE)
    assert problem.path == "model._delete_"


def test_a_null_replaces_a_mapping(load):
    assert load("_base_: base.yaml\nmodel: {auxiliary_head: null}", base=BASE)["model"]["auxiliary_head"] is None


def test_directives_inside_list_items_are_applied(load):
    assert load("hooks: [{type: A, keys+: [1]}]")["hooks"] == [{"type": "A", "keys": [1]}]


def test_bases_merge_left_to_right_and_then_the_file(load):
    files = {"one": "seed: 1\nwork_dir: one", "two": "seed: 2\nload_from: two"}
    config = load("_base_: [one.yaml, two.yaml]\nload_from: mine", **files)
    assert dict(config) == {"seed": 2, "work_dir": "one", "load_from": "mine"}


def test_a_base_is_relative_to_its_file(load, write):
    write("shared/deep/low.yaml", "seed: 7")
    write("shared/base.yaml", "_base_: deep/low.yaml\nwork_dir: x")
    config = load("_base_: shared/base.yaml")
    assert dict(config) == {"seed": 7, "work_dir": "x"}


def test_a_base_reached_twice_is_included_once(load):
    files = {"low": "hooks+: [{type: A}]\nseed: 1", "left": "_base_: low.yaml\nseed: 2", "right": "_base_: low.yaml"}
    config = load("_base_: [left.yaml, right.yaml]", **files)
    assert config["hooks"] == [{"type": "A"}]
    assert config["seed"] == 2


def test_a_base_that_includes_itself_shows_the_cycle(problems):
    (problem,) = problems("_base_: a.yaml", a="seed: 1\n_base_: b.yaml", b="_base_: my.yaml")
    assert problem.message == "a base includes itself: my.yaml -> a.yaml -> b.yaml -> my.yaml"
    assert problem.place == "b.yaml:1:1"


def test_a_missing_base_is_reported_where_it_is_named(problems):
    (problem,) = problems("seed: 1\n_base_: [base.yml, nix.yaml]", base=BASE, nix="seed: 1")
    assert (problem.path, problem.place) == ("_base_", "my.yaml:2:10")
    assert problem.message == "base.yml: no such file"
    assert "'base.yaml'" in problem.hint


def test_errors_of_several_files_are_reported_together(problems):
    found = problems("_base_: [a.yaml, b.yaml]\nseed: 1\nseed: 2", a="x: 1\nx: 2", b="[1]")
    assert [problem.place for problem in found] == ["my.yaml:3:1", "a.yaml:2:1", "b.yaml"]


@pytest.mark.parametrize("value", ["3", "{a: 1}", "[[x]]", "''"])
def test_a_base_must_be_a_string(problems, value):
    (problem,) = problems(f"_base_: {value}")
    assert "a base is a path or a packaged name" in problem.message


def test_a_base_is_only_allowed_at_the_top(problems):
    (problem,) = problems("model: {_base_: base.yaml}", base=BASE)
    assert (problem.path, problem.place) == ("model._base_", "my.yaml:1:9")


def test_an_unknown_section_is_an_error(problems):
    (problem,) = problems("modle: {}\nseed: 1")
    assert (problem.path, problem.place) == ("modle", "my.yaml:1:1")
    assert "'model'" in problem.hint


def test_places_survive_the_merge(load):
    config = load("_base_: base.yaml\nhooks+: [{type: Second}]\nmodel: {decode_head: {channels: 8}}", base=BASE)
    assert place_of(config["model"]["decode_head"], "channels") == "my.yaml:3:23"
    assert place_of(config["model"]["decode_head"], "type") == "base.yaml:4:17"
    assert place_of(config["hooks"], 0) == "base.yaml:7:5"
    assert place_of(config["hooks"], 1) == "my.yaml:2:10"
    assert place_of(config["hooks"][1], "type") == "my.yaml:2:11"


def test_loading_twice_gives_equal_independent_configs(load):
    first = load("_base_: base.yaml", base=BASE)
    first["model"]["decode_head"]["channels"] = 1
    assert load("_base_: base.yaml")["model"]["decode_head"]["channels"] == 512
