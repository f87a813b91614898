"""Set the version of the kernel and of every first-party plugin, which is the same for all until 1.0.

python tools/set_version.py 0.3.1               # contracts unchanged
python tools/set_version.py 0.4.0 --contract    # contracts changed: plugins must require at least 0.4

`tests/test_versions.py` checks that the versions are equal everywhere.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
INIT = ROOT / "kernel" / "src" / "segkernel" / "__init__.py"
CATALOG = ROOT / "kernel" / "src" / "segkernel" / "catalog.py"
FIRST_PARTY = [ROOT / "kernel" / "pyproject.toml", *sorted(ROOT.glob("plugins/*/pyproject.toml"))]
PLUGINS = [
    *FIRST_PARTY[1:],
    *sorted(path for folder in ("examples", "tests") for path in ROOT.glob(f"{folder}/*/*.toml")),
]
"""All packages that require the kernel; the third-party examples and test plugins keep their own versions."""


def set_version(version: str) -> None:
    """Write the version into every pyproject and into ``segkernel.__version__``."""
    for path in FIRST_PARTY:
        substitute(path, r'^version = "[^"]+"', f'version = "{version}"')
    substitute(INIT, r'^__version__ = "[^"]+"', f'__version__ = "{version}"')


def set_contract(contract: str) -> None:
    """Raise the oldest contract that the kernel supports, and the lower bound of every plugin."""
    for path in PLUGINS:
        substitute(path, r'"seg-kernel>=[0-9.]+', f'"seg-kernel>={contract}')
    substitute(CATALOG, r'^CONTRACT = "[^"]+"', f'CONTRACT = "{contract}"')


def substitute(path: Path, pattern: str, replacement: str) -> None:
    """Replace the only match in a file.

    Raises:
        SystemExit: If there is no match, or more than one.
    """
    text, count = re.subn(pattern, replacement, path.read_text("utf-8"), flags=re.MULTILINE)
    if count != 1:
        sys.exit(f"{path.relative_to(ROOT)}: expected one match of {pattern}, found {count}")
    path.write_text(text, "utf-8")


if __name__ == "__main__":
    match = re.fullmatch(r"(\d+\.\d+)\.\d+\S*", sys.argv[1]) if len(sys.argv) in (2, 3) else None
    if match is None or sys.argv[2:] not in ([], ["--contract"]):
        sys.exit(__doc__)
    set_version(match[0])
    if sys.argv[2:]:
        set_contract(match[1])
