"""`PreemptionHook`: a run that a batch system takes its machine from saves, and asks to be started again.

    hooks:
      - {type: PreemptionHook}

docs/hooks.md has the script of a job for it.
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
    """Take further signals as SIGTERM: the step is finished, a checkpoint saved on all ranks, the run ended.

    It ends with ``exit_code``, by which a script knows that the run wants to go on; SIGINT keeps its own, 130.

    Args:
        signals: Beside SIGTERM. Schedulers send one some time before they kill.
        exit_code: After any of them; 75 is what mail systems use for "try again later".
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
            for name in self.signals:
                number = getattr(signal, name)
                self._before[number] = signal.signal(number, self._pass_on)

    @hookimpl
    def after_train(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _pass_on(self, number: int, frame: Any) -> None:
        # A second one must not find SIGTERM uncaught, which the run catches once.
        signal.signal(number, signal.SIG_IGN)
        signal.raise_signal(signal.SIGTERM)

    @hookimpl
    def on_exception(self, run: Run, error: BaseException) -> None:
        if isinstance(error, Interrupted) and error.exit_code == 128 + signal.SIGTERM:
            error.exit_code = self.exit_code
            if run.is_main:
                log.info("the run asks to be started again with --resume: exit code %d", self.exit_code)
