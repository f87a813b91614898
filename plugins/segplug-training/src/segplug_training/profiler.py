"""`ProfilerHook`: the time of an iteration by phase and by operator, as tables and as a trace.

    hooks:
      - {type: ProfilerHook, begin: 20, iterations: 3}

The trace, ``profile/iter_N.json`` in the run directory, is for https://ui.perfetto.dev or chrome://tracing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch.profiler import ProfilerActivity, profile

from segkernel.annotations import NonNegativeInt, PositiveInt
from segkernel.hookspecs import Priority, hookimpl
from segplug_training.phase_times import PhaseTimes

if TYPE_CHECKING:
    from segkernel.hookspecs import Run

log = logging.getLogger("segkernel.profiler")


class ProfilerHook:
    """Profile some iterations of training with `torch.profiler`, on one rank.

    The first table divides an iteration into waiting for data, forward pass, backward pass, optimiser and the rest:
    copies, preprocessing, hooks, and what lies between two iterations. The profiler itself takes time, too.

    Args:
        begin: Iterations to skip first, in which caches fill and algorithms are chosen.
        iterations: Iterations to profile; three average out one-off costs.
        record_shapes: Group operators by input shape.
        profile_memory: Record the memory that each operator allocates.
        with_stack: Record the call stack of each operator; slow.
        rows: Rows of the table, the operators with the longest self time.
    """

    priority = Priority.VERY_LOW  # other hooks' work is not profiled

    def __init__(
        self,
        begin: NonNegativeInt = 10,
        iterations: PositiveInt = 3,
        record_shapes: bool = False,
        profile_memory: bool = False,
        with_stack: bool = False,
        rows: PositiveInt = 12,
    ) -> None:
        self.begin, self.iterations, self.rows = begin, iterations, rows
        self.options: dict[str, Any] = {
            "record_shapes": record_shapes,
            "profile_memory": profile_memory,
            "with_stack": with_stack,
        }
        self._profiler: profile | None = None
        self._times: PhaseTimes | None = None
        self._first = 0

    @hookimpl
    def before_train(self, run: Run) -> None:
        self._first = run.iteration + self.begin  # a resumed run warms up again
        self._start_when_due(run)

    @hookimpl
    def before_train_iteration(self, run: Run) -> None:
        if self._times is not None:
            self._times.receive()

    @hookimpl
    def train_iteration_ended(self, run: Run) -> None:
        if run.iteration >= self._first + self.iterations:
            self._finish(run)

    @hookimpl
    def after_iteration(self, run: Run) -> None:
        if self._times is not None:
            self._times.wait()
        self._start_when_due(run)

    @hookimpl
    def after_train(self, run: Run) -> None:
        self._finish(run)

    def _start_when_due(self, run: Run) -> None:
        """Start before the data of the first iteration arrive."""
        if not (run.is_main and run.iteration == self._first) or self._profiler is not None:
            return
        activities = [ProfilerActivity.CPU]
        if run.engine.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._profiler = profile(activities=activities, **self.options)
        self._profiler.start()
        self._times = PhaseTimes(run.engine)

    def _finish(self, run: Run) -> None:
        profiler, times = self._profiler, self._times
        self._profiler = self._times = None
        if profiler is None or times is None:
            return
        seconds, total = times.stop()
        profiler.stop()
        folder = run.work_dir / "profile"
        folder.mkdir(exist_ok=True)
        path = folder / f"iter_{self._first:07d}.json"
        profiler.export_chrome_trace(str(path))
        count = max(run.iteration - self._first, 1)
        text = f"{phase_table(seconds, total, count)}\n\n{self._table(profiler, run, count)}"
        path.with_suffix(".txt").write_text(text + "\n", "utf-8")
        log.info("%s\n%s", path, text)

    def _table(self, profiler: profile, run: Run, count: int) -> str:
        averages = profiler.key_averages()
        on_gpu = run.engine.device.type == "cuda"
        own = {row.key: row.self_device_time_total if on_gpu else row.self_cpu_time_total for row in averages}
        total = sum(own.values()) or 1.0
        lines = [f"{'ms':>9} {'share':>6}  {'calls':>6}  per iteration, by operator"]
        for row in sorted(averages, key=lambda row: own[row.key], reverse=True)[: self.rows]:
            share = own[row.key] / total
            lines.append(f"{own[row.key] / 1e3 / count:9.3f} {share:6.1%}  {row.count / count:6.1f}  {row.key}")
        lines.append(f"{total / 1e3 / count:9.3f} {1:6.1%}  {'':6}  all operators")
        return "\n".join(lines)


def phase_table(seconds: Mapping[str, float], total: float, count: int) -> str:
    """Return a table of the time of an iteration.

    Args:
        seconds: Of each phase, over all iterations.
        total: Seconds of all iterations.
        count: Number of iterations.
    """
    rows = {**seconds, "other": total - sum(seconds.values()), "iteration": total}
    lines = [f"{spent * 1e3 / count:9.3f} {spent / total:6.1%}  {name}" for name, spent in rows.items()]
    return "\n".join([f"{'ms':>9} {'share':>6}  per iteration, by phase", *lines])
