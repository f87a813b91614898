"""Selecting, renaming and merging classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from segkernel.errors import UsageError
from segkernel.labels import IGNORE
from segplug_datasets.label_spec import LabelSpec
from segplug_datasets.mapping import choose_classes, regroup

NAMES = ("road", "car", "bus", "person", "rider")


@pytest.mark.parametrize(
    ("classes", "others", "expected"),
    [
        (None, None, (list(NAMES), [0, 1, 2, 3, 4])),
        (["person", "road"], None, (["person", "road"], [1, IGNORE, IGNORE, 0, IGNORE])),
        (
            {"vehicle": ["car", "bus"], "person": ["person", "rider"]},
            None,
            (["vehicle", "person"], [IGNORE, 0, 0, 1, 1]),
        ),
        ({"street": "road", "rest": []}, "rest", (["street", "rest"], [0, 1, 1, 1, 1])),
        ({"rest": ["bus"], "car": "car"}, "rest", (["rest", "car"], [0, 1, 0, 0, 0])),
        (["background", "car"], "background", (["background", "car"], [0, 1, 0, 0, 0])),
        (["road", "car"], "road", (["road", "car"], [0, 1, 0, 0, 0])),
    ],
)
def test_regroup(classes: Any, others: str | None, expected: Any) -> None:
    assert regroup(NAMES, classes, others) == expected


@pytest.mark.parametrize(
    ("classes", "others", "message"),
    [
        (["cra"], None, "no class is called 'cra': did you mean 'car'"),
        ({"vehicle": ["car", "bsu"]}, None, "did you mean 'bus'"),
        (["car", "car"], None, "twice: 'car'"),
        ({"a": ["car"], "b": ["car", "bus"]}, None, "twice: 'car'"),
        (["car"], "rest", None),
        ({"vehicle": ["car"]}, "vehicles", "did you mean 'vehicle'"),
    ],
)
def test_names_that_do_not_fit(classes: Any, others: str | None, message: str | None) -> None:
    with pytest.raises(UsageError, match=message):
        regroup(NAMES, classes, others)


def test_file_values_of_a_choice() -> None:
    labels = LabelSpec(NAMES, offset=1)
    chosen = choose_classes(labels, {"classes": {"person": ["person", "rider"], "road": "road"}})
    raw = np.array([[0, 1, 2, 3, 4, 5, 255]], np.uint8)
    assert chosen.encode(raw).tolist() == [[255, 1, 255, 255, 0, 0, 255]]
    assert chosen.palette == (labels.palette[3], labels.palette[0])


def test_sparse_values_of_a_choice() -> None:
    labels = LabelSpec(("a", "b", "c"), values={7: 0, 11: 1, 26: 2, 0: IGNORE})
    chosen = choose_classes(labels, {"classes": {"bc": ["b", "c"]}, "palette": [(1, 2, 3)]})
    assert chosen.encode(np.array([[0, 7, 11, 26, 255]], np.uint8)).tolist() == [[255, 255, 0, 0, 255]]
    assert chosen.palette == ((1, 2, 3),)


def test_renaming_keeps_the_file_values() -> None:
    chosen = choose_classes(LabelSpec(("a", "b")), {"classes": {"x": "a", "y": "b"}})
    assert chosen.classes == ("x", "y")
    assert chosen.values is None


def test_an_empty_class_beside_all_others() -> None:
    chosen = choose_classes(LabelSpec(("a", "b")), {"classes": {"x": "a", "y": "b", "z": []}})
    assert chosen.encode(np.array([[0, 1, 255]], np.uint8)).tolist() == [[0, 1, 255]]
    assert chosen.classes == ("x", "y", "z")
