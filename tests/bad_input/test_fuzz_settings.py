"""Values out of range: some of those of ``fuzz_settings.py``, and pairs of common mistakes."""

from __future__ import annotations

from itertools import combinations
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")

from fuzz_settings import complaint, settings

from segkernel.config import load_config
from segkernel.experiment import check

MISTAKES = {
    "optim.optimizer": ("optim.optimizer=SGD", "optim.optimizer"),
    "batch size": ("optim.batch_size=2.5", "optim.batch_size: expected int (1 or more), got 2.5 (float)"),
    "norm": ("+optim.clip_grad=1.0", "optim.clip_grad: expected a mapping or None, got 1.0 (float)"),
    "rate": ("+optim.paramwise={bias_lr_mult: -1}", "bias_lr_mult: expected float (0 or more), got -1 (int)"),
    "iterations": ("schedule.iterations=10k", "schedule.iterations: expected int (1 or more) or None, got '10k' (str)"),
    "interval": ("schedule.val_interval=0", "schedule.val_interval: expected float (above 0) or None, got 0 (int)"),
    "workers": ("data.workers=-1", "data.workers: expected int (0 or more, 1024 or less), got -1 (int)"),
    "crop": ("+data.crop_size=512", "data.crop_size: expected a list [int (1 or more), int (1 or more)] or None"),
    "mean": ("+data.preprocess=5", "data.preprocess: expected a mapping, got 5 (int)"),
    "views": ("+evaluate.tta=true", "evaluate.tta: expected a mapping or None, got True (bool)"),
    "seed": ("+seed=-1", "seed: expected int (0 or more"),
    "ignored": (
        "+model.decode_head.ignore_index=-1",
        "ignore_index: expected int (0 or more, 255 or less), got -1 (int)",
    ),
    "dropout": ("+model.decode_head.dropout_ratio=5", "dropout_ratio: expected float (1 or less), got 5 (int)"),
    "preferred": ("+plugins.prefer=[5]", "plugins.prefer[0]: expected str, got 5 (int)"),
}


def test_a_value_outside_its_range_is_refused_with_key_value_and_range() -> None:
    found = list(settings())
    assert len(found) > 500
    assert [text for text in map(complaint, found[::3]) if text] == []


def test_two_mistakes_are_both_reported(tiny: SimpleNamespace) -> None:
    for first, second in combinations(MISTAKES.values(), 2):
        config = load_config(tiny.config(), [first[0], second[0]])
        text = "\n".join(map(str, check(config)))
        for _, words in (first, second):
            assert words in text, (first, second, text)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_reported_once(tiny: SimpleNamespace, name: str) -> None:
    (problem,) = check(load_config(tiny.config(), [MISTAKES[name][0]]))
    assert MISTAKES[name][1] in str(problem)
    assert problem.place == "command line"
