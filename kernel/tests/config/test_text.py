"""Reading YAML: scalars as people expect, marks, and one clear message for each error."""

from __future__ import annotations

import math
import os
import pickle
from pathlib import Path

import pytest
import yaml

from segkernel.config import load_config
from segkernel.config.marks import place_of
from segkernel.config.text import read_mapping, read_text, scalar
from segkernel.errors import ConfigError

SCALARS = {
    "1e-4": 1e-4,
    "1.5E+3": 1500.0,
    "1.": 1.0,
    ".5": 0.5,
    "-.5": -0.5,
    "12": 12,
    "-3": -3,
    "+3": 3,
    "1_000": 1000,
    "0x1F": 31,
    "0o17": 15,
    "0": 0,
    "true": True,
    "False": False,
    "NULL": None,
    "~": None,
    "": None,
    ".inf": math.inf,
    "-.inf": -math.inf,
    "on": "on",
    "off": "off",
    "yes": "yes",
    "No": "No",
    "y": "y",
    "1:30": "1:30",
    "2024-01-31": "2024-01-31",
    "0123": "0123",
    "1e": "1e",
    "e5": "e5",
    ".": ".",
    "-": "-",
    "+": "+",
    "tRue": "tRue",
    "1.2.3": "1.2.3",
    "_1": "_1",
    "nan": "nan",
    "=": "=",
}


def test_scalars_are_read_as_people_expect():
    read = {text: scalar(text) for text in SCALARS}
    assert {text: (value, type(value)) for text, value in read.items()} == {
        text: (value, type(value)) for text, value in SCALARS.items()
    }


def test_nan_is_a_float():
    assert math.isnan(scalar(".nan"))


def test_quoted_scalars_are_strings():
    assert read_text("""["1", '1e-4', "true", "~"]""", "x", []) == ["1", "1e-4", "true", "~"]


def test_anchors_and_aliases_are_read():
    assert read_mapping("a: &it {x: 1}\nb: *it", "x", []) == {"a": {"x": 1}, "b": {"x": 1}}


def test_integers_may_be_keys():
    assert read_mapping("0: road\n1: car", "x", []) == {0: "road", 1: "car"}


def test_every_value_knows_its_line_and_column():
    data = read_mapping("model:\n  type: A\n  heads:\n    - {type: B}\n    - 3\n", "my.yaml", [])
    assert place_of(data, "model") == "my.yaml:1:1"
    assert place_of(data["model"], "type") == "my.yaml:2:3"
    assert place_of(data["model"]["heads"], 0) == "my.yaml:4:7"
    assert place_of(data["model"]["heads"][0], "type") == "my.yaml:4:8"
    assert place_of(data["model"]["heads"], 1) == "my.yaml:5:7"


def test_plain_containers_have_no_place():
    assert place_of({"a": 1}, "a") == ""
    assert place_of([1]) == ""


def test_slices_sums_copies_and_pickles_keep_places():
    items = read_text("[a, b, c]", "x", [])
    assert [place_of(items[1:], i) for i in range(2)] == ["x:1:5", "x:1:8"]
    assert place_of(items[::-1], 0) == "x:1:8"
    assert place_of(items + items[:1], 3) == "x:1:2"
    assert place_of(items.copy(), 2) == "x:1:8"
    assert place_of(pickle.loads(pickle.dumps(items)), 2) == "x:1:8"


BAD = {
    "a: 1\na: 2": ("x:2:1", "duplicate key 'a'"),
    "a: !!python/object/apply:os.system [x]": ("x:1:4", "the tag !!python/object/apply:os.system is not supported"),
    "a: !!str 5": ("x:1:4", "the tag !!str is not supported"),
    "a: !mine {}": ("x:1:4", "the tag !mine is not supported"),
    "? [1]\n: 2": ("x:1:3", "a key must be a string or an integer"),
    "1.5: a": ("x:1:1", "a key must be a string or an integer, not 1.5"),
    "true: a": ("x:1:1", "a key must be a string or an integer, not true"),
    "a: &b {}\n<<: *b": ("x:2:1", "the merge key << is unsupported"),
    "a: [1,\nb: 2": ("x:", "not valid YAML"),
    "a: b: c": ("x:1:5", "not valid YAML"),
    "\ta: 1": ("x:1:1", "not valid YAML"),
    "a: 1\n---\nb: 2": ("x:2:1", "a second document begins"),
    "a: *b": ("x:1:4", "the alias *b has no anchor"),
    "a: &a [*a]": ("x:1:8", "the alias *a has no anchor before it"),
    "a: \x01": ("x", "cannot be read as YAML"),
    "[1]": ("x", "holds a list at the top"),
    "just text": ("x", "holds a plain value at the top"),
    "": ("x", "is empty"),
    "# nothing": ("x", "is empty"),
}


@pytest.mark.parametrize(("text", "expected"), BAD.items())
def test_bad_yaml_gives_one_message_with_its_place(text, expected):
    problems = []
    read_mapping(text, "x", problems)
    assert len(problems) == 1
    assert problems[0].place.startswith(expected[0])
    assert problems[0].message.startswith(expected[1])


def test_all_errors_are_reported_together():
    problems = []
    read_mapping("a: 1\na: 2\nb: !x 1\n1.5: c\n", "x", problems)
    assert [problem.place for problem in problems] == ["x:2:1", "x:3:4", "x:4:1"]


def test_a_tab_is_named():
    problems = []
    read_mapping("a:\n\tb: 1", "x", problems)
    assert "tab" in problems[0].hint


@pytest.mark.parametrize("text", ["[" * 300_000 + "]" * 300_000, "- " * 300_000, "{a: " * 5000 + "}" * 5000])
def test_deep_nesting_is_refused(text):
    problems = []
    read_text(text, "x", problems)
    assert [problem.message for problem in problems] == ["is nested too deeply"]


@pytest.mark.parametrize("limit", [None, 100, 150])
def test_deep_nesting_is_refused_for_any_depth_limit_of_the_parser(monkeypatch, limit):
    class Loader(yaml.SafeLoader):
        def fetch_flow_collection_start(self, token):
            super().fetch_flow_collection_start(token)
            if limit and self.flow_level > limit:
                raise yaml.scanner.ScannerError(None, None, "deeper than this parser goes", self.get_mark())

    monkeypatch.setattr(yaml, "CSafeLoader", Loader, raising=False)
    problems = []
    read_text("[" * 300 + "]" * 300, "x", problems)
    assert [problem.message for problem in problems] == ["is nested too deeply"]


def test_an_alias_bomb_is_refused():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    problems = []
    read_text("\n".join(lines), "x", problems)
    assert "more than" in problems[0].message


def test_the_pure_python_parser_reads_the_same(monkeypatch):
    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    data = read_mapping("a: [1e-4, 'on', on]\nb:\n  c: {d: 1}\n", "x", [])
    assert data == {"a": [1e-4, "on", "on"], "b": {"c": {"d": 1}}}
    assert place_of(data["b"]["c"], "d") == "x:3:7"


def one_problem(source):
    with pytest.raises(ConfigError) as error:
        load_config(source)
    assert len(error.value.problems) == 1
    return error.value.problems[0]


def test_a_missing_file_is_reported_with_similar_names(write):
    write("mine.yaml", "seed: 1")
    problem = one_problem("mime.yaml")
    assert problem.message == "mime.yaml: no such file"
    assert "mine.yaml" in problem.hint


def test_a_missing_folder_is_named(write):
    write("mine.yaml", "seed: 1")
    assert "no such folder" in one_problem("nowhere/mine.yaml").hint


def test_a_folder_is_not_a_config(write, tmp_path):
    write("folder/mine.yaml", "seed: 1")
    assert "Is a directory" in one_problem(Path("folder")).message


def test_text_that_is_not_utf8_is_refused(write, tmp_path):
    write("mine.yaml", "")
    (tmp_path / "mine.yaml").write_bytes(b"name: caf\xe9\n")
    assert "not UTF-8" in one_problem("mine.yaml").message


def test_a_byte_order_mark_is_ignored(write, tmp_path):
    write("mine.yaml", "")
    (tmp_path / "mine.yaml").write_bytes(b"\xef\xbb\xbfseed: 1\n")
    assert load_config("mine.yaml").data == {"seed": 1}


def test_a_config_must_be_a_regular_file_of_limited_size(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    large = tmp_path / "large.yaml"
    large.write_bytes(b"a: b\n" * 5_000_000)
    for path, said in ((tmp_path / "pipe.yaml", "is not a regular file"), (large, "exceeds the size limit")):
        with pytest.raises(ConfigError, match=said):
            load_config(path)


def test_an_error_does_not_show_the_content_of_a_base(tmp_path):
    (tmp_path / "secret.yaml").write_text("admin:x:0:0")
    (tmp_path / "my.yaml").write_text("_base_: secret.yaml")
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "my.yaml")
    assert "admin" not in str(caught.value)
