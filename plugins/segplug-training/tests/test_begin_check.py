"""Hooks that name iterations or modules that a run does not have are refused."""

from __future__ import annotations

import pytest

from segkernel.errors import UsageError
from segkernel.testing.toys import ToySegmentor
from segplug_training.activation_checkpointing import modules_called
from segplug_training.ema import EMAHook
from segplug_training.freeze import FreezeHook
from segplug_training.swa import SWAHook


@pytest.mark.parametrize(
    ("allowed", "refused"),
    [
        (EMAHook(begin_iter=6), EMAHook(begin_iter=7)),
        (SWAHook(begin_epoch=2), SWAHook(begin_epoch=3)),
        (FreezeHook(["backbone"], begin=5), FreezeHook(["backbone"], begin=6)),
        (FreezeHook(["backbone"], begin=1, by_epoch=True), FreezeHook(["backbone"], begin=2, by_epoch=True)),
    ],
)
def test_a_hook_that_would_begin_after_the_end_is_refused(make_runner, allowed, refused) -> None:
    runner = make_runner()
    allowed.before_train(runner)
    with pytest.raises(UsageError, match=r"is never reached: the run has (6 iterations|1.5 epochs)"):
        refused.before_train(runner)


def test_the_root_is_no_name_in_the_list_of_modules() -> None:
    with pytest.raises(UsageError, match="available: backbone, "):
        modules_called(ToySegmentor(), ["xyz"])
