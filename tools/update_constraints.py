"""Write constraints.txt: the newest versions of all packages that the tests need, for Python 3.10 and for newer ones.

python tools/update_constraints.py          # then run nox, and commit both together

The versions of torch and of its Triton in the file are kept; change them by hand. Run this on the newest Python of the
nox sessions.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "constraints.txt"
TOOLS = ["pytest", "pytest-xdist", "hypothesis", "hatchling", "editables", "ruff", "mypy", "types-PyYAML", "nox"]
UNPINNED = {"timm", "albumentations", "coreml", "executorch", "tensorrt"}
OLDEST = "3.10"
ONLY_OLDEST = ("tomli", "exceptiongroup")
"""Requirements of the tools before Python 3.11, listed because pip evaluates markers for the Python it runs on."""
HEADER = """# What the tests run with, complete: pip install -c constraints.txt ...
# The packages accept ranges (see each pyproject.toml). Two lines where a newer version has left Python 3.10.
# Written by tools/update_constraints.py.
"""


def requirements() -> list[str]:
    """Return the tools, and the requirements of the kernel and of the plugins with extras and tests, without torch."""
    found = [*TOOLS, *ONLY_OLDEST]
    for path in [ROOT / "kernel" / "pyproject.toml", *sorted(ROOT.glob("plugins/*/pyproject.toml"))]:
        content = tomllib.loads(path.read_text("utf-8"))
        project, found = content["project"], found + content.get("dependency-groups", {}).get("test", [])
        extras = project.get("optional-dependencies", {})
        chosen = [extras[name] for name in extras if name not in UNPINNED]
        found += [text for text in sum(chosen, project["dependencies"]) if not text.startswith(("seg-kernel", "torch"))]
    return found


def resolve(wanted: list[str], *options: str) -> dict[str, str]:
    """Return {name: version} of the packages that pip would install."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = ["install", "-q", "--dry-run", "--ignore-installed", "--report", str(report), *options, *wanted]
        subprocess.run([sys.executable, "-m", "pip", *command], check=True)
        installed = json.loads(report.read_text("utf-8"))["install"]
    pairs = ((entry["metadata"]["name"], entry["metadata"]["version"]) for entry in installed)
    return {re.sub(r"[-_.]+", "-", name).lower(): version.partition("+")[0] for name, version in pairs}


def main() -> None:
    """Resolve for both Pythons and write the file."""
    newer = resolve([*requirements(), *re.findall(r"^(?:torch|triton)==.+$", FILE.read_text("utf-8"), re.MULTILINE)])
    # Without torch, whose wheels for another Python are large. Its pure Python requirements are listed instead.
    pure = ["networkx", "fsspec", "jinja2", "sympy"]
    options = ("--python-version", OLDEST, "--only-binary=:all:", "--target", "unused")
    older = resolve([*requirements(), *pure, *sorted(f"{name}<={newer[name]}" for name in pure)], *options)
    lines = []
    for name in sorted(newer.keys() | older.keys()):
        versions = {newer.get(name, older.get(name)), older.get(name, newer.get(name))}
        if len(versions) == 1:
            lines.append(f"{name}=={versions.pop()}")
        else:
            lines.append(f'{name}=={older[name]}; python_version < "3.11"')
            lines.append(f'{name}=={newer[name]}; python_version >= "3.11"')
    FILE.write_text(HEADER + "\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
