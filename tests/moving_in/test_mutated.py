"""Configs with random changes are imported, or refused with a message, and never run."""

from __future__ import annotations

import mutate
import pytest


def test_changed_configs_are_imported_or_refused() -> None:
    assert list(mutate.failures(mutate.CONFIGS, count=30, seed=11)) == []


@pytest.mark.slow  # the quick test takes fewer
def test_many_changed_configs_are_imported_or_refused() -> None:
    assert list(mutate.failures(mutate.CONFIGS, count=3000, seed=0)) == []
