"""The code in the tutorial is the code in this folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1]
README = (FOLDER / "README.md").read_text()
BLOCKS = re.findall(r"^`([\w./-]+)`\n\n```\w+\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(("name", "block"), BLOCKS, ids=[f"{name}-{i}" for i, (name, _) in enumerate(BLOCKS)])
def test_block_is_in_its_file(name, block):
    assert block in (FOLDER / name).read_text()


def test_every_block_names_its_file():
    code = re.findall(r"^```(?:python|toml|yaml)$", README, re.MULTILINE)
    assert len(code) == len(BLOCKS) > 5


def test_listed_files_exist():
    tree = next(block for block in re.findall(r"```\n(.*?)```", README, re.DOTALL) if "pyproject.toml" in block)
    names = [line.split()[0].rstrip("/") for line in tree.splitlines()[1:]]
    there = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*")}
    assert all(any(path.endswith(name) for path in there) for name in names)
