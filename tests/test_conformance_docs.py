"""docs/conformance.md names every check of the kit, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("torch")

from segkernel.catalog import GROUPS
from segkernel.testing.core import checks_of

DOCUMENT = Path(__file__).parents[1] / "docs" / "conformance.md"


def test_every_check_is_documented_and_no_other() -> None:
    section = DOCUMENT.read_text("utf-8").partition("## The checks")[2]
    documented = set(re.findall(r"^\| `([a-z-]+)`", section, re.MULTILINE))
    assert documented == {name for group in ("package", *GROUPS) for name in checks_of(group)}
