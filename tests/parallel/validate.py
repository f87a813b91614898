"""Validate an untrained model and write the metrics: ``validate.py CONFIG OUT [KEY=VALUE]...``, or by torchrun."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from segkernel import load_config
from segkernel.experiment import make_runner

if __name__ == "__main__":
    config, out, *overrides = sys.argv[1:]
    runner = make_runner(load_config(config, overrides))
    metrics = runner.validate()
    if runner.is_main:
        Path(out).write_text(json.dumps(metrics))
    runner.close()
