"""Metrics in Prometheus' text format: counters, gauges and histograms of a fixed set of labels."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SIZES = (1, 2, 4, 8, 16, 32)

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """What the server counts.

    Args:
        gauges: What a gauge is, and a function that returns its present values by model ("" for the whole
            process), by its name.
    """

    def __init__(self, gauges: Mapping[str, tuple[str, Callable[[], Mapping[str, float]]]]) -> None:
        self._gauges = gauges
        self._requests: Counter[Labels] = Counter()
        self._seconds: dict[str, _Histogram] = {}
        self._batches: dict[str, _Histogram] = {}

    def request(self, model: str, status: int, seconds: float) -> None:
        """Count a request for a prediction; ``model`` is empty if the name is unknown."""
        self._requests[("model", model), ("status", str(status))] += 1
        self._seconds.setdefault(model, _Histogram(SECONDS)).add(seconds)

    def batch(self, model: str, size: int) -> None:
        """Count a batch."""
        self._batches.setdefault(model, _Histogram(SIZES)).add(size)

    def text(self) -> str:
        """Return all metrics."""
        lines = _head("segkernel_requests_total", "Requests for a prediction.", "counter")
        lines += [_line("segkernel_requests_total", labels, count) for labels, count in sorted(self._requests.items())]
        lines += _histograms("segkernel_request_seconds", "Time from request to answer.", self._seconds)
        lines += _histograms("segkernel_batch_size", "Images computed together.", self._batches)
        for name, (text, values) in self._gauges.items():
            lines += _head(name, text, "gauge")
            lines += [_line(name, (("model", model),) if model else (), value) for model, value in values().items()]
        return "\n".join([*lines, ""])


class _Histogram:
    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds, self.counts, self.sum = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


def _histograms(name: str, text: str, by_model: Mapping[str, _Histogram]) -> list[str]:
    lines = _head(name, text, "histogram")
    for model, histogram in by_model.items():
        labels, total = (("model", model),), 0
        for bound, count in zip([*map(str, histogram.bounds), "+Inf"], histogram.counts, strict=True):
            total += count
            lines.append(_line(f"{name}_bucket", (*labels, ("le", bound)), total))
        lines += [_line(f"{name}_sum", labels, histogram.sum), _line(f"{name}_count", labels, total)]
    return lines


def _head(name: str, text: str, kind: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _line(name: str, labels: Labels, value: float) -> str:
    # Names of models contain no quotes, see `segplug_deploy.serve.models`.
    written = ",".join(f'{key}="{text}"' for key, text in labels)
    return f"{name}{f'{{{written}}}' if written else ''} {int(value) if value == int(value) else f'{value:g}'}"
