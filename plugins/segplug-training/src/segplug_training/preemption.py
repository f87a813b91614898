"""`PreemptionHook`: on a preemption signal, the run saves a checkpoint and requests a requeue.

    hooks:
      - {type: PreemptionHook}

docs/hooks.md has a job script for it.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Interval

from segkernel.errors import Interrupted
from segkernel.hookspecs import Priority, hookimpl

if TYPE_CHECKING:
    from segkernel.hookspecs import Run

log = logging.getLogger("segkernel.preemption")

Signal = Literal["SIGUSR1", "SIGUSR2", "SIGHUP", "SIGXCPU"]


class PreemptionHook:
    """Treat further signals like SIGTERM: all ranks finish the step, save a checkpoint and exit.

    The run exits with ``exit_code``, by which a job script knows to requeue it; the exit code of SIGINT stays 130.

    Args:
        signals: Additional signals to treat like SIGTERM. Schedulers send one some time before they kill.
        exit_code: After any of them; 75 is EX_TEMPFAIL, "try again later".
    """

    priority = Priority.VERY_HIGH

    def __init__(
        self, signals: Sequence[Signal] = ("SIGUSR1",), exit_code: Annotated[int, Interval(ge=1, le=255)] = 75
    ) -> None:
        self.signals, self.exit_code = list(signals), exit_code
        self._before: dict[int, Any] = {}

    @hookimpl
    def before_train(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._stop: Any = signal.getsignal(signal.SIGTERM)  # the run's handler, which notes the number
            for name in self.signals:
                number = getattr(signal, name)
                self._before[number] = signal.signal(number, self._pass_on)

    @hookimpl
    def after_train(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _pass_on(self, number: int, frame: Any) -> None:
        if signal.getsignal(signal.SIGTERM) == self._stop:  # the run removes it after the first signal
            self._stop(number, frame)

    @hookimpl
    def on_exception(self, run: Run, error: BaseException) -> None:
        numbers = [signal.SIGTERM, *(getattr(signal, name) for name in self.signals)]
        if isinstance(error, Interrupted) and error.exit_code - 128 in numbers:
            name, error.exit_code = signal.Signals(error.exit_code - 128).name, self.exit_code
            if run.is_main:
                log.info("%s: requesting requeue, to continue with --resume: exit code %d", name, self.exit_code)
