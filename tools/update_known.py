"""Write the kernel's hint table, ``known.json``, from ``plugins/*/pyproject.toml``.

python tools/update_known.py            # after changing entry points
python tools/update_known.py --check    # exit 1 when it is out of step
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "kernel" / "src" / "segkernel" / "known.json"
PREFIX = "segkernel."


def known() -> dict[str, dict[str, list[str]]]:
    """Return {distribution: {group: names}} of the first-party plugins; zoos are folders, not names."""
    table = {}
    for path in sorted(ROOT.glob("plugins/*/pyproject.toml")):
        project = tomllib.loads(path.read_text("utf-8"))["project"]
        groups = project.get("entry-points", {})
        ours = {group.removeprefix(PREFIX): sorted(groups[group]) for group in sorted(groups) if PREFIX in group}
        table[project["name"]] = {group: names for group, names in ours.items() if group != "zoo"}
    return table


def main() -> int:
    text = json.dumps(known(), indent=1) + "\n"
    if "--check" in sys.argv:
        return int(TABLE.read_text("utf-8") != text)
    TABLE.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
