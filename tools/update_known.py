"""Update the files generated from the plugins' pyprojects: the kernel's ``known.json`` and the plugins' public names.

python tools/update_known.py            # after changing entry points
python tools/update_known.py --check    # exit 1 if a file is out of date

In a plugin's ``__init__`` the lines between the two marks are written; public names that are not components are listed
in ``[tool.segkernel]`` of its pyproject.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import tomllib

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "kernel" / "src" / "segkernel" / "known.json"
PREFIX = "segkernel."
NO_COMPONENTS = ("adapters", "commands", "config_checks", "displays", "former_names", "optimizations", "quick_checks")
NOT_COMPONENTS = {f"{PREFIX}{group}" for group in NO_COMPONENTS}
BEGIN, END = "# The names below are written by tools/update_known.py.\n", "# Here they end.\n"


def projects() -> dict[Path, dict[str, Any]]:
    """Return the pyproject of every first-party plugin by its folder."""
    paths = sorted(ROOT.glob("plugins/*/pyproject.toml"))
    return {path.parent: tomllib.loads(path.read_text("utf-8")) for path in paths}


def known() -> dict[str, dict[str, list[str]]]:
    """Return {distribution: {group: names}} of the first-party plugins; zoos are folders, not names."""
    table = {}
    for pyproject in projects().values():
        groups = pyproject["project"].get("entry-points", {})
        ours = {group.removeprefix(PREFIX): sorted(groups[group]) for group in sorted(groups) if PREFIX in group}
        table[pyproject["project"]["name"]] = {group: names for group, names in ours.items() if group != "zoo"}
    return table


def homes(package: str, pyproject: dict[str, Any]) -> dict[str, str]:
    """Return {name: module} of the public names of a package: its components, also those that the kernel has."""
    groups = pyproject["project"].get("entry-points", {})
    objects = [value for group in groups if group not in NOT_COMPONENTS for value in groups[group].values()]
    objects += pyproject.get("tool", {}).get("segkernel", {}).get("exports", [])
    pairs = (value.split(":") for value in objects if value.startswith((f"{package}.", PREFIX)))
    return {name: module for module, name in sorted(pairs, key=lambda pair: pair[1])}


def written(text: str, package: str, pyproject: dict[str, Any]) -> str:
    """Return the text of an ``__init__`` with updated names."""
    before, _, rest = text.partition(BEGIN)
    names = homes(package, pyproject)
    imports = sorted(f"    from {module} import {name} as {name}\n" for name, module in names.items())
    table = [f'    "{name}": "{module.removeprefix(package)}",\n' for name, module in names.items()]
    block = ["# isort: off\n", "if TYPE_CHECKING:\n", *imports, "# isort: on\n", "\n_HOMES = {\n", *table, "}\n"]
    return before + BEGIN + "".join(block) + END + rest.partition(END)[2]


def files() -> dict[Path, str]:
    """Return {path: text} of every generated file."""
    wanted = {TABLE: json.dumps(known(), indent=1) + "\n"}
    for folder, pyproject in projects().items():
        for path in folder.glob("src/*/__init__.py"):
            if BEGIN in (text := path.read_text("utf-8")):
                wanted[path] = written(text, path.parent.name, pyproject)
    return wanted


def main() -> int:
    stale = {path: text for path, text in files().items() if path.read_text("utf-8") != text}
    if "--check" in sys.argv:
        return int(bool(stale))
    for path, text in stale.items():
        path.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
