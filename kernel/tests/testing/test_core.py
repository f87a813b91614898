"""Planning, running and evaluating checks, without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from segkernel.catalog import Catalog
from segkernel.errors import UsageError
from segkernel.hookspecs import hookimpl
from segkernel.testing import check_distribution, check_object, plan_object


class GoodHook:
    """Counts."""

    def __init__(self, step: int = 1) -> None:
        self.step, self.count = step, 0

    @hookimpl
    def after_iteration(self, run: object) -> None:
        self.count += self.step

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count = state["count"]


class IdleHook:
    """Marks nothing."""

    conformance_exceptions: ClassVar = {"moments": "waits for the next release"}


class WronglyExcused(GoodHook):
    """Declares a failure that it does not have."""

    conformance_exceptions: ClassVar = {"moments": "thought to fail"}


class MisspeltExcuse(GoodHook):
    """Names a check that does not exist."""

    conformance_exceptions: ClassVar = {"momentz": "typo"}


class NeedsFolder(GoodHook):
    """Gets its example from a function of an empty folder."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        assert (Path(folder) / "there").exists()

    @staticmethod
    def conformance(folder: Path) -> list[dict[str, str]]:
        (folder / "there").touch()
        return [{"folder": str(folder)}]


class NeedsArgument(GoodHook):
    """Has a required argument and no example."""

    def __init__(self, wavelength: float) -> None:
        super().__init__()


class ExampleRaises(GoodHook):
    """Its example raises."""

    @staticmethod
    def conformance(folder: Path) -> list[dict[str, str]]:
        raise RuntimeError("no example today")


class RaisesInOneExample(GoodHook):
    """Its second example fails."""

    conformance: ClassVar = [{"step": 1}, {"step": -1}]

    def __init__(self, step: int = 1) -> None:
        if step < 0:
            raise ValueError("backwards")
        super().__init__(step)


def statuses(target: object) -> dict[str, str]:
    return {result.check: result.status for result in check_object("hooks", target, catalog=Catalog())}


def message(target: object, check: str) -> str:
    results = check_object("hooks", target, catalog=Catalog())
    return next(result.message for result in results if result.check == check)


def test_a_good_component_passes_every_check() -> None:
    assert set(statuses(GoodHook).values()) <= {"passed", "skipped"}


def test_a_declared_failure_is_expected_and_carries_its_reason() -> None:
    assert statuses(IdleHook)["moments"] == "expected"
    assert message(IdleHook, "moments") == "waits for the next release"


def test_a_declared_failure_that_passes_is_a_failure() -> None:
    assert statuses(WronglyExcused)["moments"] == "failed"
    assert "remove the declaration" in message(WronglyExcused, "moments")


def test_an_exception_for_a_check_that_does_not_exist_is_a_failure() -> None:
    assert statuses(MisspeltExcuse)["exceptions"] == "failed"
    assert "momentz" in message(MisspeltExcuse, "exceptions")


def test_examples_may_come_from_a_function_of_an_empty_folder() -> None:
    assert "failed" not in statuses(NeedsFolder).values()


def test_an_example_that_raises_is_reported() -> None:
    assert "no example today" in message(ExampleRaises, "constructs")


def test_a_missing_example_is_reported() -> None:
    assert statuses(NeedsArgument)["constructs"] == "failed"
    assert "conformance" in message(NeedsArgument, "constructs")
    assert "wavelength" in message(NeedsArgument, "constructs")


def test_a_failure_to_build_is_reported_once() -> None:
    assert statuses(NeedsArgument)["moments"] == "skipped"


def test_every_example_is_checked() -> None:
    assert statuses(RaisesInOneExample)["constructs"] == "failed"
    assert "backwards" in message(RaisesInOneExample, "constructs")


def test_names_of_cases_are_known_before_they_run() -> None:
    cases = plan_object("hooks", GoodHook, catalog=Catalog())
    assert {case.component for case in cases} == {"hooks/GoodHook"}
    assert "moments" in {case.check for case in cases}


def test_an_unknown_distribution_is_refused_with_the_installed_ones() -> None:
    with pytest.raises(UsageError, match="no plugin is called 'segplug-nothing'"):
        check_distribution("segplug-nothing", Catalog())


def test_importing_the_kit_imports_neither_torch_nor_numpy() -> None:
    script = (
        "import sys, segkernel.testing, segkernel.testing.plugin; print({'torch', 'numpy', 'cv2'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "set()"
