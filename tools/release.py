"""Make a release: version, date in the changelog, all checks, commit, tag, wheels.

python tools/release.py 0.3.1               # contracts unchanged
python tools/release.py 0.4.0 --contract    # contracts changed: plugins must require at least 0.4
python tools/release.py 0.3.1 --dry-run     # only print the commands

It needs a clean checkout whose CHANGELOG.md has the section ``## X.Y.Z (unreleased)``, and stops at the first step that
fails; nothing is uploaded. The commit includes docs/compatibility.md, which the checks write.
"""

from __future__ import annotations

import argparse
import datetime
import re
import subprocess
import sys

from set_version import ROOT, set_contract, set_version

CHANGES = ROOT / "CHANGELOG.md"
CHECKS = (["nox"], ["nox", "-s", "slow", "newest", "lowest"])


def main(arguments: list[str] | None = None) -> None:
    """Run every step of a release, or print them."""
    parser = argparse.ArgumentParser("release.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("version", type=_version)
    parser.add_argument("--contract", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args(arguments)
    dated = date_changes(CHANGES.read_text("utf-8"), options.version, datetime.date.today())
    plugins = sorted(path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("plugins/*/pyproject.toml"))
    commands = [
        *CHECKS,
        ["git", "commit", "--all", "--message", f"Version {options.version}"],
        ["git", "tag", f"v{options.version}"],
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--no-deps",
            "--wheel-dir",
            "dist",
            *(f"./{name}" for name in ["kernel", *plugins]),
        ],
    ]
    if options.dry_run:
        print("\n".join(" ".join(command) for command in commands))
        return
    if subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True).stdout:
        sys.exit("the checkout has uncommitted changes: commit them first")
    set_version(options.version)
    if options.contract:
        set_contract(options.version.rpartition(".")[0])
    CHANGES.write_text(dated, "utf-8")
    for command in commands:
        subprocess.run(command, cwd=ROOT, check=True)


def date_changes(text: str, version: str, day: datetime.date) -> str:
    """Return the changelog with the date in the heading of a version.

    Raises:
        SystemExit: If the version has no unreleased section.
    """
    heading = f"## {version} (unreleased)"
    if heading not in text:
        sys.exit(f"CHANGELOG.md has no section '{heading}'")
    return text.replace(heading, f"## {version} ({day.isoformat()})")


def _version(text: str) -> str:
    if not re.fullmatch(r"\d+\.\d+\.\d+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not MAJOR.MINOR.PATCH")
    return text


if __name__ == "__main__":
    main()
