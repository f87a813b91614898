"""`MetricsLogHook`: the records of a run, one line of JSON each."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from segkernel.hookspecs import Priority, hookimpl

if TYPE_CHECKING:
    from segkernel.hookspecs import Run


class MetricsLogHook:
    """Write records; on resume, truncate the file to its size at the checkpoint."""

    priority = Priority.BELOW_NORMAL
    name = "metrics.jsonl"

    @hookimpl
    def save_checkpoint(self, run: Run, checkpoint: dict[str, Any]) -> None:
        path = run.work_dir / self.name
        # A size, not an iteration: the final test has the iteration of the last checkpoint but is written after it.
        checkpoint["metrics_log"] = path.stat().st_size if run.is_main and path.exists() else 0

    @hookimpl
    def load_checkpoint(self, run: Run, checkpoint: Mapping[str, Any]) -> None:
        path, size = run.work_dir / self.name, checkpoint.get("metrics_log")
        if run.is_main and size is not None and path.exists() and path.stat().st_size > size:
            os.truncate(path, size)

    @hookimpl
    def on_record(self, run: Run, record: Mapping[str, Any]) -> None:
        if run.is_main:
            finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
            with (run.work_dir / self.name).open("a", encoding="utf-8") as file:
                file.write(json.dumps(finite) + "\n")
