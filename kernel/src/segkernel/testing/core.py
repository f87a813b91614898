"""Checks, their subjects and their results; no torch, no numpy."""

from __future__ import annotations

import importlib
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from packaging.utils import canonicalize_name

from segkernel.catalog import Catalog, Row, unusable
from segkernel.errors import UsageError, did_you_mean
from segkernel.signature import signature

Status = Literal["passed", "failed", "expected", "skipped"]

_HOMES = {
    **dict.fromkeys(("backbones", "necks", "heads", "segmentors"), "models"),
    **dict.fromkeys(("optimizers", "parameter_groups", "schedules"), "optim"),
    **dict.fromkeys(("layers", "outputs", "parts", "default_hooks", "former_names"), "signature"),
    **dict.fromkeys(("config_checks", "quick_checks", "predictors"), "signature"),
    **dict.fromkeys(("zoo", "config_sources", "commands", "adapters", "displays", "optimizations"), "package"),
    "samplers": "datasets",
}
"""Group to the module with its checks, where the names differ."""

QUICK = ("status", "loads", "names", "annotated", "no-open-arguments")
"""The checks that build nothing and take no time."""

_CHECKS: dict[str, dict[str, Check]] = {}


class CheckFailed(Exception):
    """A component violates the contract of its kind."""


class CheckSkipped(Exception):
    """A check does not apply, for the given reason."""


@dataclass(frozen=True)
class CheckResult:
    """The result of one check of one component.

    Args:
        component: ``heads/PSPHead``, or ``package``.
        check: The name of the check.
        status: ``expected`` is a failure that the class declares, with its reason as the message.
        message: Empty when passed.
    """

    component: str
    check: str
    status: Status
    message: str = ""

    @property
    def ok(self) -> bool:
        """Whether there is nothing to fix."""
        return self.status != "failed"

    def __str__(self) -> str:
        return f"{self.status:8} {self.component}: {self.check}" + (f"\n    {self.message}" if self.message else "")


@dataclass
class Subject:
    """One component under test, with one set of example arguments.

    Args:
        group: ``heads``.
        name: ``PSPHead``, or the distribution's name for the group ``package``.
        target: The object of the entry point: a class, a function, a command, a path.
        arguments: The example.
        inputs: The target's ``conformance_inputs``.
        folder: An empty folder for this subject.
    """

    group: str
    name: str
    target: Any
    folder: Path
    arguments: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    catalog: Catalog | None = None

    def build(self, **more: Any) -> Any:
        """Construct the component from the example, with ``more`` on top."""
        from segkernel.building import build

        return build(self.target, {**self.arguments, **more}, catalog=self.catalog)


@dataclass(frozen=True)
class Check:
    """A function that returns, or raises `CheckFailed` or `CheckSkipped`, and whether it needs an example."""

    function: Callable[[Subject], None]
    example: bool


@dataclass(frozen=True)
class Case:
    """One check of one component, not yet run."""

    component: str
    check: str
    run: Callable[[], CheckResult] = field(repr=False, compare=False)


def check(*groups: str, name: str, example: bool = True) -> Callable[[Callable[[Subject], None]], Any]:
    """Register a function as the check ``name`` of these groups; with ``example`` it runs on every example."""

    def register(function: Callable[[Subject], None]) -> Callable[[Subject], None]:
        for group in groups:
            _CHECKS.setdefault(group, {})[name] = Check(function, example)
        return function

    return register


def checks_of(group: str) -> dict[str, Check]:
    """Return the checks of a group by name, in order."""
    for module in ("signature", _HOMES.get(group, group)):
        importlib.import_module(f"segkernel.testing.{module}")
    return _CHECKS.get(group, {})


def require(condition: object, message: str) -> None:
    """Raise `CheckFailed` unless ``condition`` is true."""
    if not condition:
        raise CheckFailed(message)


def skip_unless(condition: object, reason: str) -> None:
    """Raise `CheckSkipped` unless ``condition`` is true."""
    if not condition:
        raise CheckSkipped(reason)


def check_distribution(name: str, catalog: Catalog | None = None, deep: bool = True) -> list[CheckResult]:
    """Run every check on every component of an installed distribution, and those of the package itself.

    Args:
        name: Name of the distribution.
        catalog: Where it is found; None is the installed one.
        deep: False only imports everything and reads signatures (`QUICK`).

    Raises:
        UsageError: When no distribution of that name offers components.
    """
    return [case.run() for case in plan(name, catalog) if deep or case.check in QUICK]


def check_object(group: str, target: Any, name: str = "", catalog: Catalog | None = None) -> list[CheckResult]:
    """Run every check of ``group`` on a class or function that is not an entry point yet."""
    return [case.run() for case in plan_object(group, target, name, catalog)]


def plan(distribution: str, catalog: Catalog | None = None) -> list[Case]:
    """Return the cases of a distribution; its components are imported, nothing is built.

    Raises:
        UsageError: When no distribution of that name offers components.
    """
    catalog = catalog or Catalog.discover()
    wanted = canonicalize_name(distribution)
    rows = [row for row in catalog.rows if row.distribution == wanted]
    if not rows:
        known = sorted({row.distribution for row in catalog.rows})
        near = did_you_mean(wanted, known) or known
        raise UsageError(f"no plugin is called {distribution!r}; installed: {', '.join(near)}")
    if rows[0].status != "ok":
        return [_unusable(rows[0])]
    cases = _cases("package", wanted, rows, "package", catalog)
    for row in rows:
        component = f"{row.group}/{row.name}"
        try:
            target = row if row.group == "zoo" else catalog.load(row.group, row.qualified)
        except Exception as error:
            cases.append(_settled(component, "loads", "failed", str(error)))
            continue
        cases.append(_settled(component, "loads", "passed"))
        cases += _cases(row.group, row.name, target, component, catalog)
    return cases


def plan_object(group: str, target: Any, name: str = "", catalog: Catalog | None = None) -> list[Case]:
    """Return the cases of a class or function that is not an entry point yet."""
    name = name or getattr(target, "__name__", str(target))
    return _cases(group, name, target, f"{group}/{name}", catalog or Catalog.discover())


def _unusable(row: Row) -> Case:
    if row.status == "disabled":
        return _settled("package", "status", "skipped", "hidden by SEGKERNEL_DISABLE")
    return _settled("package", "status", "failed", str(unusable(row)).splitlines()[0])


def _settled(component: str, check: str, status: Status, message: str = "") -> Case:
    return Case(component, check, lambda: CheckResult(component, check, status, message))


def _cases(group: str, name: str, target: Any, component: str, catalog: Catalog) -> list[Case]:
    checks = checks_of(group)
    exceptions = dict(getattr(target, "conformance_exceptions", {}))
    unknown = sorted(set(exceptions) - set(checks))
    cases = []
    if unknown:
        text = f"conformance_exceptions has unknown checks: {', '.join(unknown)}; those of {group}: {', '.join(checks)}"
        cases.append(_settled(component, "exceptions", "failed", text))
    subject = Subject(group, name, target, Path(), {}, dict(getattr(target, "conformance_inputs", {})), catalog)
    built, reported = {"constructs": True}, dict[str, str]()
    for check_name, entry in checks.items():

        def run(entry: Check = entry, check_name: str = check_name) -> CheckResult:
            # A declared failure counts in every process: checks of one component may be spread over several.
            unbuilt = not built["constructs"] or ("constructs" in exceptions and check_name != "constructs")
            if entry.example and unbuilt:
                return CheckResult(component, check_name, "skipped", "it could not be built")
            status, message = _settle(*_run(entry, subject), exceptions.get(check_name))
            built[check_name] = status == "passed"
            if status == "failed" and reported.setdefault(message, check_name) != check_name:
                return CheckResult(component, check_name, "skipped", f"it fails like {reported[message]!r}")
            return CheckResult(component, check_name, status, message)

        cases.append(Case(component, check_name, run))
    return cases


def _run(entry: Check, subject: Subject) -> tuple[Status, str]:
    """Run a check on every example of the component; the first failure ends it."""
    skipped = ""
    try:
        with tempfile.TemporaryDirectory(prefix="segkernel-") as folder:
            for one in _examples(subject, Path(folder)) if entry.example else [subject]:
                skipped = _run_one(entry, one) or skipped
    except CheckFailed as error:
        return "failed", str(error)
    return ("skipped", skipped) if skipped else ("passed", "")


def _run_one(entry: Check, subject: Subject) -> str:
    """Return why the check was skipped, if it was."""
    example = f" (example {dict(subject.arguments)})" if subject.arguments else ""
    try:
        entry.function(subject)
    except CheckSkipped as error:
        return str(error)
    except CheckFailed as error:
        raise CheckFailed(f"{error}{example}") from error
    except Exception as error:  # a component under test may raise anything
        raise CheckFailed(f"{type(error).__name__}: {error}{_origin(error)}{example}") from error
    return ""


def _settle(status: Status, message: str, reason: str | None) -> tuple[Status, str]:
    """Compare the result with a declared exception."""
    if reason is None or status == "skipped":
        return status, message
    if status == "failed":
        return "expected", reason
    return "failed", f"declared in conformance_exceptions ({reason}), but it passes: remove the declaration"


def _examples(subject: Subject, folder: Path) -> Iterator[Subject]:
    """Yield the subject with each of its example arguments: those declared, or those the kit can guess."""
    declared = getattr(subject.target, "conformance", None)
    if declared is None:
        declared = [_guess(subject)]
    elif callable(declared):
        (folder / "data").mkdir()
        try:
            declared = declared(folder / "data")
        except Exception as error:  # as in a check
            raise CheckFailed(f"its conformance function raises {type(error).__name__}: {error}") from error
    examples = [declared] if isinstance(declared, Mapping) else list(declared)
    require(examples, "conformance has no example")
    for number, arguments in enumerate(examples):
        own = folder / f"example{number}"
        own.mkdir()
        yield replace(subject, arguments=arguments, folder=own)


_USUAL = {"in_channels": 16, "channels": 8, "num_classes": 4, "classes": tuple("abcd"), "embed_dims": 16}
_GIVEN = {"optimizers": "params", "schedules": "optimizer"}  # passed by the checks of the group


def _guess(subject: Subject) -> dict[str, Any]:
    parameters = signature(subject.target)
    required = [name for name in parameters if parameters[name].required and name != _GIVEN.get(subject.group)]
    unknown = [name for name in required if name not in _USUAL]
    require(not unknown, f"it needs {', '.join(unknown)}: add an example to the class, conformance = [{{...}}]")
    return {name: _USUAL[name] for name in required}


def _origin(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
