"""Every YAML block of docs/configuration.md loads, and what the page states about keys and commands is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from segkernel.catalog import Catalog
from segkernel.config import load_config
from segkernel.config.overrides import declared_keys

PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"
if not PAGE.is_file():
    pytest.skip("the documentation is not part of this checkout", allow_module_level=True)
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def named(block: str) -> str:
    first = re.match(r"# (\S+\.yaml)\n", block)
    return first.group(1) if first else ""


@pytest.fixture
def page(write):
    """Write the blocks that begin with a file name, as those files."""
    for block in BLOCKS:
        if named(block):
            write(named(block), block)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_every_yaml_block_loads(page, write, number):
    block = BLOCKS[number]
    if not named(block).startswith("local_configs/"):
        load_config(write(named(block) or "block.yaml", block), catalog=Catalog())


def test_the_explanation_on_the_page_is_what_is_printed(page):
    lines = load_config("my.yaml", catalog=Catalog()).explain("model.decode_head.num_classes")
    assert "\n".join(lines) in TEXT


def test_the_overrides_on_the_page_work(page):
    from shlex import split

    commands = re.findall(r"^seg-kernel run my.yaml (.*)$", TEXT, re.MULTILINE)
    assert len(commands) == 5
    for command in commands:
        load_config("my.yaml", split(command, comments=True), catalog=Catalog())


def test_every_section_and_key_is_on_the_page():
    names = {key for section in declared_keys(()) for key in (section, *declared_keys((section,)))}
    assert [name for name in sorted(names) if f"`{name}`" not in TEXT] == []
