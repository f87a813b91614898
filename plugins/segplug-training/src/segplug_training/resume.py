"""The command that continues a run, from what `RecordHook` wrote into its directory."""

from __future__ import annotations

import json
import shlex
from pathlib import Path


def resume_command(folder: Path) -> str:
    """Return the command that continues the run in ``folder``; "" if it has no recorded config or no checkpoint."""
    config = folder / "config.yaml"
    if not config.is_file() or not any(folder.glob("checkpoints/iter_*.pt")):
        return ""
    words = ["seg-kernel", "run", str(config), "--work-dir", str(folder), "--resume"]
    ranks = environment_of(folder).get("ranks", 1)
    return shlex.join([*words, *(["--launch", str(ranks)] if ranks != 1 else [])])


def environment_of(folder: Path) -> dict[str, object]:
    """Return the recorded environment of a run, empty if it cannot be read."""
    try:
        found = json.loads((folder / "environment.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
