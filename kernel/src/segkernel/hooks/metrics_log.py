"""`MetricsLogHook`: every record as one line of ``metrics.jsonl`` in the run directory."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segkernel.files import replacing
from segkernel.hookspecs import Priority, hookimpl

if TYPE_CHECKING:
    from segkernel.runner import Runner


class MetricsLogHook:
    """Write records; on resume, cut the file to what the checkpoint had seen."""

    priority = Priority.BELOW_NORMAL
    name = "metrics.jsonl"

    @hookimpl
    def load_checkpoint(self, run: Runner, checkpoint: Mapping[str, Any]) -> None:
        path = run.work_dir / self.name
        if not (run.is_main and path.exists()):
            return
        kept = [line for line in path.read_text("utf-8").splitlines() if _iteration(line) <= run.iteration]
        with replacing(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in kept), "utf-8")

    @hookimpl
    def on_record(self, run: Runner, record: Mapping[str, Any]) -> None:
        if run.is_main:
            plain = {key: None if _is_nan(value) else value for key, value in record.items()}
            _append(run.work_dir / self.name, json.dumps(plain))


def _append(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def _iteration(line: str) -> float:
    try:
        return json.loads(line)["iteration"]
    except (ValueError, KeyError, TypeError):  # the last line of a killed run may be half written
        return math.inf


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
