"""Config files below a temporary folder."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from segkernel.catalog import Catalog
from segkernel.config import load_config
from segkernel.errors import ConfigError, Problem


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write a file below the temporary folder, which is the current one."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    return write


@pytest.fixture
def load(write: Callable[..., Path]) -> Callable[..., dict]:
    """Load a config from its text; other files are given by keyword, ``base`` is base.yaml."""

    def load(text: str, *overrides: str, **files: str):
        for name, content in files.items():
            write(f"{name}.yaml", content)
        return load_config(write("my.yaml", text), overrides, catalog=Catalog())

    return load


@pytest.fixture
def problems(load: Callable[..., dict]) -> Callable[..., list[Problem]]:
    """Return the problems of a config that must not load."""

    def problems(text: str, *overrides: str, **files: str) -> list[Problem]:
        with pytest.raises(ConfigError) as error:
            load(text, *overrides, **files)
        return list(error.value.problems)

    return problems
