"""The last figures in the log of a run, ours or MMSegmentation's, where there are no results of single images."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

_METRIC = re.compile(r"(m|a|)(IoU|Acc|Dice|Fscore|Precision|Recall)(\..+)?")
_PLACES = ("metrics.jsonl", "*.log.json", "vis_data/scalars.json", "*/vis_data/scalars.json")


def logged_figures(place: str | Path) -> dict[str, float]:
    """Return the metrics of the last test in a log, else of the last validation, in percent; empty without any."""
    place = Path(place)
    found = [path for pattern in _PLACES for path in sorted(place.glob(pattern))[-1:]] if place.is_dir() else [place]
    lines = (
        found[0].read_text("utf-8", "replace").splitlines() if found and found[0].suffix in (".json", ".jsonl") else []
    )
    records = [(record, _figures(record)) for record in map(_parsed, lines)]
    evaluated = [(record, figures) for record, figures in records if figures]
    tested = [figures for record, figures in evaluated if record.get("kind") == "test"]
    return (tested or [figures for _, figures in evaluated] or [{}])[-1]


def _parsed(line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):  # a killed run may leave its last line incomplete
        return {}
    return record if isinstance(record, dict) else {}


def _figures(record: dict[str, Any]) -> dict[str, float]:
    """Return the metrics in a line; MMSegmentation 0.x, whose lines have a ``mode``, writes them from 0 to 1."""
    scale = 100 if record.get("mode") == "val" else 1
    entries = record.items() if record.get("kind", record.get("mode")) != "train" else ()
    return {name: scale * value for name, value in entries if _METRIC.fullmatch(name) and type(value) in (int, float)}
