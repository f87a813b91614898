"""The packages are released together: one version, and bounds that admit no kernel of an older contract."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import segkernel
from segkernel.catalog import CONTRACT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
KERNEL = ROOT / "kernel" / "pyproject.toml"
PLUGINS = sorted(ROOT.glob("plugins/*/pyproject.toml"))
OUTSIDE = sorted(path for folder in ("examples", "tests") for path in ROOT.glob(f"{folder}/*/pyproject.toml"))


def project(path: Path) -> dict:
    return tomllib.loads(path.read_text("utf-8"))["project"]


def test_all_packages_have_one_version() -> None:
    versions = {path.parent.name: project(path)["version"] for path in (KERNEL, *PLUGINS)}
    assert versions == dict.fromkeys(versions, segkernel.__version__)


def test_the_contract_is_of_a_version_that_has_been() -> None:
    assert Version(CONTRACT) <= Version(segkernel.__version__)


@pytest.mark.parametrize("path", [*PLUGINS, *OUTSIDE], ids=lambda path: path.parent.name)
def test_a_plugin_asks_for_kernels_of_the_present_contract(path: Path) -> None:
    (bounds,) = (str(r.specifier) for r in map(Requirement, project(path)["dependencies"]) if r.name == "seg-kernel")
    assert sorted(bounds.split(",")) == sorted([f">={CONTRACT}", f"<{Version(CONTRACT).major + 1}"])


def test_the_change_log_begins_with_the_present_version() -> None:
    headings = [line for line in (ROOT / "CHANGELOG.md").read_text("utf-8").splitlines() if line.startswith("## ")]
    assert headings[0].split()[1] == segkernel.__version__


def test_a_release_dates_its_changes_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools")
    import release

    text = "# Changes\n\n## 1.2.0 (unreleased)\n\n- New.\n\n## 1.1.0 (2025-01-01)\n"
    dated = release.date_changes(text, "1.2.0", datetime.date(2026, 3, 4))
    assert dated == text.replace("unreleased", "2026-03-04")
    with pytest.raises(SystemExit, match=r"no section '## 1\.1\.0 \(unreleased\)'"):
        release.date_changes(text, "1.1.0", datetime.date(2026, 3, 4))
