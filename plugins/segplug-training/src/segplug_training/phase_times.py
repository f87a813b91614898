"""`PhaseTimes`: where the time of an iteration goes; data, forward pass, backward pass, optimiser."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from segkernel.interfaces.model import Engine

WAITING, FORWARD, BACKWARD, OPTIMIZER = "waiting for data", "forward", "backward", "optimizer"
METHODS = {"compute_loss": FORWARD, "backward": BACKWARD, "clip": OPTIMIZER, "step": OPTIMIZER}
"""The methods of `LocalEngine` and of engines derived from it that are timed, and their phase."""


class PhaseTimes:
    """Measures the phases of iterations from its creation to `stop`; on a GPU, by events in its stream of work.

    Args:
        engine: Its methods are wrapped until `stop`; one that is not derived from `LocalEngine` may lack them, and its
            steps are not divided into phases.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._spans: list[tuple[str, Any, Any]] = []
        self._methods = [name for name in METHODS if hasattr(engine, name)]
        for name in self._methods:
            setattr(engine, name, self._timed(getattr(engine, name), METHODS[name]))
        self._begin = self._waiting = self._now()

    def wait(self) -> None:
        """Note that an iteration begins to wait for its data."""
        self._waiting = self._now()

    def receive(self) -> None:
        """Note that the data of an iteration have arrived."""
        self._spans.append((WAITING, self._waiting, self._now()))

    def stop(self) -> tuple[dict[str, float], float]:
        """Return the seconds of each phase, and those of all iterations together."""
        end = self._now()
        for name in self._methods:
            delattr(self.engine, name)
        if self.engine.device.type == "cuda":
            torch.cuda.synchronize(self.engine.device)
        seconds = dict.fromkeys((WAITING, FORWARD, BACKWARD, OPTIMIZER), 0.0)
        for phase, start, stop in self._spans:
            seconds[phase] += _between(start, stop)
        return seconds, _between(self._begin, end)

    def _timed(self, method: Callable[..., Any], phase: str) -> Callable[..., Any]:
        @wraps(method)
        def timed(*arguments: Any, **options: Any) -> Any:
            start = self._now()
            result = method(*arguments, **options)
            self._spans.append((phase, start, self._now()))
            return result

        return timed

    def _now(self) -> Any:
        """Return an event that the GPU records when it gets there, or else the time."""
        if self.engine.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.engine.device))
        return event


def _between(start: Any, stop: Any) -> float:
    return stop - start if isinstance(start, float) else start.elapsed_time(stop) / 1e3
