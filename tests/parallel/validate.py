"""Validate an untrained model, once with each override, and write the metrics.

validate.py CONFIG OUT ENGINE KEY=VALUE...         # alone, or by torchrun
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from segkernel import load_config
from segkernel.experiment import make_runner

if __name__ == "__main__":
    config, out, engine, *overrides = sys.argv[1:]
    found = []
    for override in overrides:
        changes = [f"engine.type={engine}", "optim.batch_size=12", override]  # for one, two and three ranks
        runner = make_runner(load_config(config, changes), Path(out).with_suffix(f".{len(found)}"))
        found.append(runner.validate())
        runner.close()
    if runner.is_main:
        Path(out).write_text(json.dumps(found))
