"""The Chinese pages have the commands and the code of the English ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def code(page: Path) -> list[str]:
    """Return the blocks of a page without their comments, which are translated."""
    blocks = re.findall(r"^```(?:bash|python|yaml)\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return [re.sub(r"\s+# .*$", "", block, flags=re.MULTILINE).rstrip() for block in blocks]


@pytest.mark.parametrize("page", sorted((DOCS / "zh").glob("*.md")), ids=lambda page: page.stem)
def test_a_translation_has_the_code_of_the_original(page: Path) -> None:
    assert code(page) == code(DOCS / page.name)
