"""The pytest plugin: ``pytest --segkernel-conformance DIST`` runs one test per component and check.

Without the option it does nothing; with it and no path, only these tests run.
"""

from __future__ import annotations

from typing import Any

import pytest

OPTION = "--segkernel-conformance"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option; it may be given several times."""
    text = "check every component of this installed distribution"
    parser.getgroup("segkernel").addoption(OPTION, action="append", default=[], metavar="DIST", help=text)


def pytest_configure(config: pytest.Config) -> None:
    """Do not collect the tests of the current folder unless a path was given."""
    if config.getoption(OPTION) and config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.args = []


@pytest.hookimpl(tryfirst=True)  # before -k and -m select
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the cases of the given distributions."""
    for distribution in config.getoption(OPTION):
        from segkernel.errors import UsageError
        from segkernel.testing.core import plan

        try:
            cases = plan(distribution)
        except UsageError as error:
            raise pytest.UsageError(str(error)) from error
        items += [_item(session, distribution, case) for case in cases]


class ConformanceItem(pytest.Item):
    """One check of one component."""

    case: Any

    def runtest(self) -> None:
        """Run the check and report its status in pytest's terms."""
        result = self.case.run()
        if result.status == "failed":
            raise ConformanceError(result.message)
        if result.status == "skipped":
            pytest.skip(result.message)
        if result.status == "expected":
            pytest.xfail(result.message)

    def repr_failure(self, excinfo: Any, style: Any = None) -> Any:
        """Show the message only: the traceback would be the kit's."""
        if isinstance(excinfo.value, ConformanceError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Any, None, str]:
        """Name the test in reports."""
        return self.path, None, self.nodeid


class ConformanceError(Exception):
    """A check that failed; carries its message."""


def _item(session: pytest.Session, distribution: str, case: Any) -> ConformanceItem:
    nodeid = f"{distribution}::{case.component}::{case.check}"
    item: ConformanceItem = ConformanceItem.from_parent(session, name=f"{case.component}::{case.check}", nodeid=nodeid)
    item.case = case
    return item
