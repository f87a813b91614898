"""`MeterHook`: losses, rates and speed of every training interval, as a record that other hooks show and write."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from segkernel.annotations import PositiveInt
from segkernel.hookspecs import Priority, hookimpl

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from segkernel.hookspecs import Run
    from segkernel.sample import Batch


class MeterHook:
    """Emit a ``train`` record every ``interval`` iterations: mean losses, rates, images per second, share of data wait.

    ``lr`` is the rate of the first parameter group, ``lr.x10`` that of groups whose initial rate is ten times higher.

    ``memory`` is the peak that was allocated on a GPU during the interval, in MiB; on the CPU the peak of the process
    so far. ``watts`` is the power that the GPUs of all ranks draw at the end of the interval, where NVIDIA's
    nvidia-ml-py is installed.

    Reading a loss waits for the device, so losses are summed there and read once per interval.

    Args:
        interval: Iterations per record.
    """

    priority = Priority.ABOVE_NORMAL

    def __init__(self, interval: PositiveInt = 10) -> None:
        self.interval = interval
        self.before_train()

    @hookimpl
    def before_train(self) -> None:
        """Start an interval."""
        self.sums: dict[str, Any] = {}
        self.count = self.images = 0
        self.waited = 0.0
        self.started = time.perf_counter()

    @hookimpl
    def after_train_iteration(self, run: Run, batches: list[Batch], losses: Mapping[str, Any]) -> None:
        for name, value in losses.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.count += 1
        self.images += sum(len(batch) for batch in batches) * run.engine.world_size
        self.waited += run.data_wait
        if run.iteration % self.interval == 0 or run.iteration == run.max_iterations:
            run.emit(self._record(run))
            self.before_train()

    @hookimpl
    def after_iteration(self, run: Run) -> None:
        if not self.count:  # a validation between two intervals is not training time
            self.started = time.perf_counter()

    def _record(self, run: Run) -> dict[str, Any]:
        ranks = run.engine.world_size
        terms = {name: [float(value)] for name, value in self.sums.items()}
        if (power := watts(run.engine.device)) is not None:
            terms[_WATTS] = [power]
        sums = run.engine.sum(terms)
        drawn = sums.pop(_WATTS, None)
        means = {name: value / (self.count * ranks) for name, value in sums.items()}
        seconds = max(time.perf_counter() - self.started, 1e-9)
        record: dict[str, Any] = {"kind": "train", "iteration": run.iteration, "epoch": round(run.epoch, 4)}
        record |= learning_rates(run.optimizer) if run.optimizer else {"lr": 0.0}
        record |= {"loss": means.pop("loss"), **means}
        record["seconds_per_iteration"] = round(seconds / self.count, 5)
        record["images_per_second"] = round(self.images / seconds, 2)
        record["data_wait"] = round(min(self.waited / seconds, 1.0), 4)
        if (peak := peak_memory(run.engine.device)) is not None:
            record["memory"] = round(peak / 2**20)
        if drawn is not None:
            record["watts"] = round(drawn)
        return record


_WATTS = "watts of a rank"


def peak_memory(device: torch.device) -> int | None:
    """Return peak bytes: on a GPU since the last call, on the CPU of this process since it started."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return peak
    if resource is None or device.type != "cpu":
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # bytes per unit of ru_maxrss
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def watts(device: torch.device) -> float | None:
    """Return the power that a GPU draws now; None where it is unknown."""
    if device.type != "cuda":
        return None
    try:
        return torch.cuda.power_draw(device) / 1000
    except Exception:  # no NVML, or a device or driver that does not tell: the exceptions are of an optional package
        return None


def learning_rates(optimizer: Optimizer) -> dict[str, float]:
    """Return the rate of the first parameter group as ``lr``, and others as ``lr.xN`` by their initial factor N."""
    first, *others = optimizer.param_groups
    usual = float(first.get("initial_lr", first["lr"])) or 1.0
    factors = {f"lr.x{group.get('initial_lr', group['lr']) / usual:.4g}": float(group["lr"]) for group in others}
    factors.pop("lr.x1", None)
    return {"lr": float(first["lr"]), **factors}
