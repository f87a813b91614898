"""A pytest plugin for environments without torch: what needs it is skipped, everything else must pass.

python -m pytest -p tests.without_torch kernel/tests
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest

ABSENT = importlib.util.find_spec("torch") is None
REASON = "needs torch"


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """Skip a module that imports torch."""
    report = yield
    if ABSENT and report.failed and "No module named 'torch" in str(report.longrepr):
        report.outcome = "skipped"
        report.longrepr = (str(collector.path), 0, f"Skipped: {REASON}")
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Skip a test whose fixtures import torch."""
    yield from _skipping()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Skip a test that imports torch."""
    yield from _skipping()


def _skipping() -> Iterator[None]:
    try:
        return (yield)
    except Exception as error:
        if ABSENT and _is_for_torch(error):
            pytest.skip(REASON)
        raise


def _is_for_torch(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == "torch":
            return True
        error = error.__cause__ or error.__context__
    return False
