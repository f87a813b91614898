"""`PreemptionHook` answers a scheduler's signal with a checkpoint and the exit code that requests a restart."""

from __future__ import annotations

import signal

import pytest

from segkernel import hookimpl
from segkernel.errors import Interrupted
from segplug_training.preemption import PreemptionHook


class Send:
    """Sends this process signals in the third iteration."""

    def __init__(self, *numbers):
        self.numbers = numbers

    @hookimpl
    def after_train_iteration(self, run):
        for number in self.numbers if run.iteration == 3 else ():
            signal.raise_signal(number)


@pytest.mark.parametrize(
    ("numbers", "hooks", "code"),
    [
        ([signal.SIGUSR1], [PreemptionHook()], 75),
        ([signal.SIGUSR1, signal.SIGUSR1], [PreemptionHook()], 75),
        ([signal.SIGTERM, signal.SIGUSR1], [PreemptionHook(["SIGUSR1"])], 75),
        ([signal.SIGTERM], [PreemptionHook(exit_code=99)], 99),
        ([signal.SIGUSR2], [PreemptionHook(["SIGUSR2"])], 75),
        ([signal.SIGINT], [PreemptionHook()], 130),
        ([signal.SIGTERM], [], 143),
    ],
)
def test_the_step_is_finished_and_saved_and_the_exit_code_asks_for_more(make_runner, numbers, hooks, code):
    before = signal.getsignal(signal.SIGUSR1)
    runner = make_runner(*hooks, Send(*numbers))
    with pytest.raises(Interrupted) as caught:
        runner.run()
    assert caught.value.exit_code == code
    assert f"by signal {int(numbers[0])};" in str(caught.value)
    assert [path.name for path in (runner.work_dir / "checkpoints").glob("iter_*3.pt")] == ["iter_0000003.pt"]
    assert signal.getsignal(signal.SIGUSR1) == before
