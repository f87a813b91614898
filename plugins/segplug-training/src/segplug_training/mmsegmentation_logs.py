"""JSON logs of MMSegmentation, as the records of our ``metrics.jsonl``.

0.x writes ``work_dir/TIME.log.json``, with a ``mode`` in each line and metrics from 0 to 1; 1.x writes
``work_dir/TIME/vis_data/scalars.json``, with a ``step`` and metrics in percent.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from segkernel.errors import DataError

log = logging.getLogger(__name__)

_METRIC = re.compile(r"(m|a|)(IoU|Acc|Dice|Fscore|Precision|Recall)(\..+)?")
_PLACES = ("*.log.json", "vis_data/scalars.json", "*/vis_data/scalars.json", "vis_data/*.json", "scalars.json")
_COUNTERS = ("mode", "step", "iter", "epoch")


def find_log(folder: Path) -> Path | None:
    """Return the newest log in a work directory of MMSegmentation, or in the directory of one start; None if none."""
    for place in _PLACES:
        if found := sorted(folder.glob(place)):
            if len(found) > 1:
                log.warning("%s has %d logs, one for each start: taking %s", folder, len(found), found[-1])
            return found[-1]
    return None


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the records of a log: ``kind``, ``iteration``, and numbers by name, metrics in percent.

    Raises:
        DataError: When a line is not JSON (the last may be incomplete), or the file is no log of MMSegmentation.
    """
    lines = path.read_text("utf-8", "replace").splitlines()
    parsed = list(_parsed(lines, path))
    records = list(_of_0x(parsed) if any("mode" in line for line in parsed) else _of_1x(parsed))
    if not records:
        raise DataError("is no log of MMSegmentation: no line has a mode or a step", path)
    return records


def _parsed(lines: Sequence[str], path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line) if line.strip() else {}
        except (ValueError, RecursionError) as error:
            if number == len(lines):  # a killed run may leave its last line incomplete
                return
            raise DataError(f"line {number} is not JSON: {error}", path) from None
        if isinstance(value, dict):
            yield value


def _of_0x(lines: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield records; an iteration that starts again belongs to the next epoch, and validation to the last iteration."""
    last = before = 0
    for line in lines:
        if line.get("mode") == "train" and isinstance(count := line.get("iter"), int):
            before = last if before + count < last else before
            last = before + count
            yield {"kind": "train", "iteration": last, **_numbers(line)}
        elif line.get("mode") == "val":
            metrics = {
                name: 100 * value if _METRIC.fullmatch(name) else value for name, value in _numbers(line).items()
            }
            yield {"kind": "val", "iteration": last, **metrics}


def _of_1x(lines: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield records; the step of a validation is an epoch where training counts epochs."""
    last, by_epoch = 0, False
    for line in lines:
        if not isinstance(step := line.get("step"), int):
            continue
        if "loss" in line or "lr" in line:
            last, by_epoch = line["iter"] if isinstance(line.get("iter"), int) else step, "epoch" in line
            yield {"kind": "train", "iteration": last, **_numbers(line)}
        else:
            yield {"kind": "val", "iteration": last if by_epoch or step == 0 else step, **_numbers(line)}


def _numbers(line: dict[str, Any]) -> dict[str, float]:
    kept = {name: value for name, value in line.items() if name not in _COUNTERS and not isinstance(value, bool)}
    return {name: value for name, value in kept.items() if isinstance(value, int | float)}
