"""All checks of this repository: ``nox`` runs the default sessions, ``nox -s NAME`` one, ``nox --list`` lists them.

The matrix is generated from ``plugins/*/pyproject.toml`` and the Pythons found on this machine, so a new plugin needs
no change here. Each test runs in exactly one default session. The kernel's requirements and the test tools are
installed once, into ``.nox/base-*``, which every session's environment includes through a ``.pth`` file. It contains
nothing else, so a plugin with an undeclared requirement fails in its session. Sessions with all packages also include
``.nox/full-*``, which contains the requirements of all packages.
"""

from __future__ import annotations

import atexit
import datetime
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nox
from packaging.requirements import Requirement
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent
WORK = ROOT / ".nox"
INSTALL = ("-q", "--no-compile", "-c", str(ROOT / "constraints.txt"))
"""Options of pip. Modules are compiled when imported; most installed ones never are."""
SERVICES = {"wandb", "mlflow"}
"""Extras that no session installs: clients of servers, which tests replace; one pins old releases of other packages."""
DEVICES = {"coreml", "executorch", "tensorrt"}
"""Extras that no session installs: exports for other devices, which are large or need one to run."""
UNTESTED = SERVICES | DEVICES | {"docs"}
"""Extras that no session with tests installs; ``docs`` is for the session of that name."""
NEWEST_ONLY = {"timm", "albumentations"}
"""Extras of the session ``newest`` only: timm needs torchvision, which fits one torch; the other a second OpenCV."""
HIGHER_BOUNDS = ("segplug-deploy",)
"""Plugins whose lower bounds are higher than the kernel's; the session ``lowest`` tests them separately."""
CORES = os.cpu_count() or 1
RESULTS_FILE = os.environ.get("NOX_RESULTS_FILE", "")
"""Set in sessions that `checks` runs in parallel: the file to write `RESULTS` to."""
WORKERS = CORES // 2 if RESULTS_FILE else CORES
PARALLEL = ("-n", str(WORKERS), "--dist", "worksteal") if WORKERS > 1 else ()
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
TEST_TOOLS = ("pytest", "pytest-xdist", "hypothesis", "hatchling", "editables")

nox.needs_version = ">=2024.3"
nox.options.sessions = ["lint", "checks"]
nox.options.error_on_external_run = True
# pip does not compile; without this, each of hundreds of processes would compile what it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


# ---------------------------------------------------------------- packages and Pythons


def read_toml(path: Path) -> dict:
    """Return the contents of a TOML file."""
    return tomllib.loads(path.read_text("utf-8"))


def project(folder: Path) -> dict:
    """Return the ``[project]`` table of a package's folder."""
    return read_toml(folder / "pyproject.toml")["project"]


def plugin_folders(tree: Path = ROOT) -> list[Path]:
    """Return the folders of a tree's plugins."""
    return sorted(path.parent for path in tree.glob("plugins/*/pyproject.toml"))


def found_pythons() -> list[str]:
    """Return those of `PYTHONS` that run on this machine, and add them to PATH, where nox looks for them."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = []
    for version in PYTHONS:
        candidates = [
            shutil.which(f"python{version}"),
            *sorted(pyenv.glob(f"versions/{version}.*/bin/python{version}")),
        ]
        runs = next((str(path) for path in candidates if path and _runs(str(path))), None)
        if runs:
            os.environ["PATH"] = os.pathsep.join([str(Path(runs).parent), os.environ["PATH"]])
            found.append(version)
    return found


def _runs(python: str) -> bool:
    # A pyenv shim exists for every installed version, but fails for versions that are not activated.
    return subprocess.run([python, "-c", ""], capture_output=True).returncode == 0


PLUGINS = [folder.name for folder in plugin_folders()]
FOUND_PYTHONS = found_pythons()


# ---------------------------------------------------------------- time and counts

Session = Callable[..., None]
STARTED = time.monotonic()
RESULTS: list[tuple[str, float, Counter[str]]] = []
"""Name, seconds and test outcomes of every finished session."""


def timed(session_function: Session) -> Session:
    """Record the time and the test outcomes of a session, for the table at the end."""

    @functools.wraps(session_function)
    def run(session: nox.Session, *arguments: Any, **options: Any) -> None:
        start, before = time.monotonic(), sum(OUTCOMES, Counter())
        try:
            session_function(session, *arguments, **options)
        finally:
            RESULTS.append((session.name, time.monotonic() - start, sum(OUTCOMES, Counter()) - before))

    return run


OUTCOMES: list[Counter[str]] = []
"""One entry per call of pytest."""


def note_outcomes(report: Path) -> list[str]:
    """Add the counts of a JUnit report to `OUTCOMES`; return the names of the tests that failed."""
    if not report.exists():
        return []
    (suite,) = ElementTree.parse(report).getroot().iter("testsuite")
    count = Counter({key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")})
    passed = count["tests"] - count["failures"] - count["errors"] - count["skipped"]
    OUTCOMES.append(+Counter(failed=count["failures"], passed=passed, skipped=count["skipped"], errors=count["errors"]))
    wrong = [case for case in suite.iter("testcase") if {child.tag for child in case} & {"failure", "error"}]
    return [f"{case.get('classname')}::{case.get('name')}" for case in wrong]


def summary(outcomes: Counter[str], seconds: float) -> str:
    """Return counts in the format of pytest's last line."""
    counts = [f"{outcomes[name]} {name}" for name in ("failed", "passed", "skipped", "errors") if outcomes[name]]
    return f"{', '.join(counts)} in {seconds:.2f}s ({datetime.timedelta(seconds=int(seconds))})"


@atexit.register
def print_table() -> None:
    """Print the time of each session, and as the last line the total of all tests."""
    if not RESULTS:
        return
    if RESULTS_FILE:
        Path(RESULTS_FILE).write_text(json.dumps(RESULTS))
        return
    width = max(len(name) for name, _, _ in RESULTS)
    print(f"\n{'session':{width}}    time  tests")
    for name, seconds, outcomes in RESULTS:
        print(f"{name:{width}}  {int(seconds) // 60:3d}:{int(seconds) % 60:02d}  {outcomes['passed'] or '-':>5}")
    total = sum((outcomes for _, _, outcomes in RESULTS), Counter())
    if total:
        print(summary(total, time.monotonic() - STARTED), flush=True)


# ---------------------------------------------------------------- environments


@functools.cache
def base() -> Path:
    """Return the environment with the kernel's requirements and the test tools."""
    return environment("base", [*kernel_requirements(), *TEST_TOOLS])


@functools.cache
def full() -> Path:
    """Return an environment on top of the base, with the requirements of all packages and their extras."""
    return environment("full", sorted(map(str, all_requirements())), below=base())


def environment(name: str, requirements: Sequence[str], below: Path | None = None) -> Path:
    """Create an environment with requirements, unless it exists, and return its folder."""
    constraints = (ROOT / "constraints.txt").read_text("utf-8")
    key = hashlib.sha256("\n".join([sys.version, constraints, *requirements]).encode()).hexdigest()[:10]
    home = WORK / f"{name}-{key}"
    if not (home / "complete").exists():
        shutil.rmtree(home, ignore_errors=True)
        _call(sys.executable, "-m", "venv", home)
        if below is not None:
            include(home, below)
        _call(_python(home), "-m", "pip", "install", *INSTALL, *requirements)
        (home / "complete").touch()
    return home


def include(home: Path, *others: Path) -> None:
    """Make the packages of other environments importable in one; its own packages take precedence."""
    (_site(_python(home)) / "others.pth").write_text("".join(f"{_site(_python(other))}\n" for other in others), "utf-8")


def kernel_requirements(without: Iterable[str] = ()) -> list[str]:
    """Return the kernel's requirements except those with the given names."""
    requirements = project(ROOT / "kernel")["dependencies"]
    return [text for text in requirements if Requirement(text).name not in without]


def refuse_unpinned(session: nox.Session) -> None:
    """Fail if the environment contains a package that constraints.txt does not pin."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pinned = {_normal(Requirement(line).name) for line in lines if line and not line.startswith("#")}
    listed = json.loads(session.run("python", "-m", "pip", "list", "--format=json", silent=True, stderr=None))
    ours = {"seg-kernel", *PLUGINS, *(project(folder)["name"] for folder in third_party_folders())}
    loose = {_normal(entry["name"]) for entry in listed} - pinned - ours - {"pip", "setuptools", "wheel"}
    if loose:
        session.error(f"constraints.txt does not pin {', '.join(sorted(loose))}: python tools/update_constraints.py")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _python(home: Path) -> Path:
    return home / ("Scripts" if os.name == "nt" else "bin") / "python"


def _site(python: Path) -> Path:
    script = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(subprocess.run([python, "-c", script], check=True, capture_output=True, text=True).stdout.strip())


def _call(*command: object, **options: object) -> subprocess.CompletedProcess:
    return subprocess.run([str(part) for part in command], check=True, **options)


# ---------------------------------------------------------------- wheels


@functools.cache
def wheels(tree: Path = ROOT, name: str = "present") -> dict[str, Path]:
    """Build the kernel and the plugins of a tree; return wheels by distribution name."""
    return build([tree / "kernel", *plugin_folders(tree)], WORK / "wheels" / name)


def build(folders: Sequence[Path], destination: Path) -> dict[str, Path]:
    """Build wheels from package folders, unless they are up to date; return them by distribution name."""
    marker, key = destination / "built", _state_of(folders)
    if not marker.exists() or marker.read_text() != key:
        shutil.rmtree(destination, ignore_errors=True)
        options = ("-q", "--no-deps", "--no-build-isolation", "--wheel-dir")
        _call(_python(base()), "-m", "pip", "wheel", *options, destination, *folders)
        marker.write_text(key)
    return {path.name.split("-")[0].replace("_", "-"): path for path in sorted(destination.glob("*.whl"))}


def _state_of(folders: Iterable[Path]) -> str:
    files = sorted(path for folder in folders for path in folder.rglob("*") if path.suffix != ".pyc" and path.is_file())
    listed = "\n".join(f"{path} {path.stat().st_mtime_ns} {path.stat().st_size}" for path in files)
    return hashlib.sha256(listed.encode()).hexdigest()


def install_wheels(session: nox.Session, built: dict[str, Path], tested: Iterable[str] | None = None) -> None:
    """Install wheels and their requirements; for the tested ones also extras and test requirements."""
    chosen = set(built if tested is None else tested)
    named = [with_extras(name, path) if name in chosen else str(path) for name, path in built.items()]
    session.install(*INSTALL, *named, *dependency_groups("test", chosen))


def with_extras(name: str, wheel: Path, without: Iterable[str] = NEWEST_ONLY | UNTESTED) -> str:
    """Return pip's argument for a wheel with its extras."""
    extras = sorted(package(name).get("project", {}).get("optional-dependencies", {}).keys() - set(without))
    return f"{wheel}[{','.join(extras)}]" if extras else str(wheel)


def dependency_groups(group: str, names: Iterable[str]) -> list[str]:
    """Return the requirements of a dependency group of packages.

    ``test`` is what their tests need in addition, ``alone`` what only the session `alone` installs, for its size.
    """
    return [text for name in sorted(names) for text in package(name).get("dependency-groups", {}).get(group, [])]


def package(name: str) -> dict:
    """Return the pyproject of a package of this repository; an empty mapping for other packages."""
    folder = ROOT / "kernel" if name == "seg-kernel" else ROOT / "plugins" / name
    return read_toml(folder / "pyproject.toml") if folder.exists() else {}


# ---------------------------------------------------------------- sessions


@nox.session
@timed
def lint(session: nox.Session) -> None:
    """Linter, format, types, and pinned requirements."""
    include(Path(session.virtualenv.location), base())
    session.install(*INSTALL, "ruff", "mypy", "types-PyYAML")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    with ThreadPoolExecutor(1) as executor:
        # mypy uses one core; meanwhile, prepare what all later sessions need.
        prepared = [executor.submit(make) for make in ((full, wheels) if "CI" in os.environ else ())]
        session.run("mypy")
    for future in prepared:
        future.result()
    refuse_unpinned(session)


CHECKS = ("together", "third_party", "alone", "kernel", "compat", "docs")
"""The sessions that `checks` runs, the longest first, so that the last one is short."""


@nox.session(venv_backend="none")
def checks(session: nox.Session) -> None:
    """All sessions with tests, two in parallel, since some spend half their time waiting."""
    full(), wheels()
    listed = _call(
        sys.executable, "-m", "nox", "--list", "--json", "-s", *CHECKS, capture_output=True, text=True
    ).stdout
    names = sorted(json.loads(listed), key=lambda entry: CHECKS.index(entry["name"]))
    with ThreadPoolExecutor(2) as executor:
        failed = [text for text in executor.map(run_session, [entry["session"] for entry in names]) if text]
    if failed:
        session.error(", ".join(failed))


def run_session(name: str) -> str:
    """Run a session in a subprocess and print its output at the end; return a message if it failed."""
    results = WORK / "results" / f"{re.sub('[^a-z0-9]+', '-', name)}.json"
    results.parent.mkdir(exist_ok=True)
    results.unlink(missing_ok=True)
    environment = {**os.environ, "NOX_RESULTS_FILE": str(results)}
    command = [sys.executable, "-m", "nox", "-s", name]
    start = time.monotonic()
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout, flush=True)
    try:
        finished = json.loads(results.read_text())
    except (FileNotFoundError, ValueError):  # it was killed, or did not finish
        RESULTS.append((name, time.monotonic() - start, Counter(errors=1)))
        return f"{name} ended with exit code {done.returncode} before it reported its tests"
    RESULTS.extend((name, seconds, Counter(outcomes)) for name, seconds, outcomes in finished)
    return name if done.returncode else ""


@nox.session(python=[*dict.fromkeys(FOUND_PYTHONS[:1] + FOUND_PYTHONS[-1:])])
@timed
def kernel(session: nox.Session) -> None:
    """The kernel's wheel without torch, on the oldest and the newest Python found: tests that need no torch."""
    session.install(*INSTALL, *TEST_TOOLS, *kernel_requirements(without=["torch"]))
    session.install("-q", "--no-deps", str(wheels()["seg-kernel"]))
    refuse_unpinned(session)
    for arguments in (["--help"], ["plugins"]):
        session.run("seg-kernel", *arguments, silent=True)
    pytest(session, *PARALLEL, "-p", "tests.without_torch", "kernel/tests")


@nox.session
@nox.parametrize("distribution", ["seg-kernel", *PLUGINS], ids=["seg-kernel", *PLUGINS])
@timed
def alone(session: nox.Session, distribution: str) -> None:
    """A package's wheel and the kernel's only: the package's quick tests, and the conformance kit."""
    include(Path(session.virtualenv.location), base())
    install_wheels(
        session, {name: wheels()[name] for name in dict.fromkeys(("seg-kernel", distribution))}, [distribution]
    )
    if large := dependency_groups("alone", [distribution]):
        session.install(*INSTALL, *large)
    refuse_unpinned(session)
    listed = session.run("seg-kernel", "plugins", "--json", silent=True)
    others = {entry["distribution"] for entry in json.loads(listed)["plugins"]} - {"seg-kernel", distribution}
    if others:
        session.error(f"{distribution} installed {', '.join(sorted(others))}: plugins must not depend on each other")
    pytest(session, *PARALLEL, own_tests(distribution), f"--segkernel-conformance={distribution}", "-m", "not slow")


def own_tests(distribution: str) -> str:
    """Return the folder of a package's tests."""
    return "kernel/tests" if distribution == "seg-kernel" else f"plugins/{distribution}/tests"


@nox.session
@timed
def together(session: nox.Session) -> None:
    """All wheels in one environment: tests that need several packages, including the golden cases."""
    include(Path(session.virtualenv.location), full(), base())
    install_wheels(session, wheels())
    refuse_unpinned(session)
    pytest(session, *PARALLEL, "tests", "--ignore=tests/test_third_party.py", "-m", "not slow", "--durations=15")


@nox.session
@timed
def third_party(session: nox.Session) -> None:
    """Third-party packages, built from a copy outside the repository; their tests and the conformance kit."""
    include(Path(session.virtualenv.location), full(), base())
    outside = Path(session.create_tmp()) / "outside"
    shutil.rmtree(outside, ignore_errors=True)
    for folder in third_party_folders():
        shutil.copytree(folder, outside / folder.name, ignore=shutil.ignore_patterns("__pycache__"))
    built = build([outside / folder.name for folder in third_party_folders()], outside / "wheels")
    install_wheels(session, {**wheels(), **built})
    test_new_plugin(session, outside / "segplug-everything")
    own = [str(folder / "tests") for folder in third_party_folders() if (folder / "tests").is_dir()]
    pytest(session, *PARALLEL, *own, "tests/test_third_party.py")


def test_new_plugin(session: nox.Session, folder: Path) -> None:
    """Write a package of all kinds, install it, and run the workflow that its authors get, in this environment."""
    session.run("seg-kernel", "new-plugin", folder.name, "--kind", "all", "--out", str(folder), silent=True)
    session.install("-q", "--no-deps", "--no-build-isolation", str(folder))
    report = folder / "report.xml"
    workflow = ("-f", str(folder / "noxfile.py"), "--no-venv", "--no-install", "-s", "tests(newest)")
    try:
        session.run(sys.executable, "-m", "nox", *workflow, "--", "-q", f"--junitxml={report}", external=True)
    finally:
        note_outcomes(report)


def third_party_folders() -> list[Path]:
    """Return the folders of the third-party packages in this repository."""
    return sorted(path.parent for parent in ("examples", "tests") for path in ROOT.glob(f"{parent}/*/pyproject.toml"))


@nox.session
@timed
def docs(session: nox.Session) -> None:
    """The documentation site, in build/site; every warning, such as a link to a missing heading, is an error."""
    include(Path(session.virtualenv.location), full(), base())
    install_wheels(session, wheels(), [])
    session.install(*INSTALL, *package("seg-kernel")["project"]["optional-dependencies"]["docs"])
    refuse_unpinned(session)
    session.run("mkdocs", "build", "--strict", "--quiet", env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
@timed
def compat(session: nox.Session) -> None:
    """Combinations of the previous and the current release, and a kernel of the next major version."""
    include(Path(session.virtualenv.location), full(), base())
    revision, before = previous_wheels(session)
    now = wheels()
    install_wheels(session, now)
    rows = {plugin: {"accepts": accepted(plugin)} for plugin in PLUGINS}
    if before:
        check_mixture(session, rows, "old kernel", {**now, "seg-kernel": before["seg-kernel"]})
        check_mixture(session, rows, "old plugin", {**now, **before, "seg-kernel": now["seg-kernel"]}, PREVIOUS)
    check_mixture(session, rows, "next major", {**now, "seg-kernel": next_major()})
    write_releases(revision, rows)
    failed = [f"{p}, {column}: {text}" for p, row in rows.items() for column, text in row.items() if "fails" in text]
    if failed:
        session.error("; ".join(failed))


PREVIOUS = WORK / "previous"


def check_mixture(
    session: nox.Session, rows: dict[str, dict[str, str]], column: str, mixture: dict[str, Path], tree: Path = ROOT
) -> None:
    """Install wheels of different releases, check every plugin of a tree, and record the outcomes in a column."""
    session.install("-q", "--no-deps", "--force-reinstall", *map(str, mixture.values()))
    for plugin, row in rows.items():
        if plugin in mixture and (tree / "plugins" / plugin).exists():
            refusal = expected_refusal(accepted(plugin, tree), version_of(mixture["seg-kernel"]))
            row[column] = outcome(session, plugin, refusal)


def expected_refusal(accepts: str, kernel_version: str) -> str:
    """Return a part of the message with which a plugin must be refused; empty if it must work."""
    specifiers = Requirement(f"seg-kernel{accepts}").specifier
    if not specifiers.contains(kernel_version, prereleases=True):
        return f"accepts seg-kernel {accepts}"
    catalog = (ROOT / "kernel" / "src" / "segkernel" / "catalog.py").read_text("utf-8")
    (contract,) = re.findall(r'^CONTRACT = "(.+)"$', catalog, re.MULTILINE)
    lowest = min(Version(specifier.version) for specifier in specifiers)
    return f"written for contracts before {contract}" if lowest < Version(contract) else ""


def outcome(session: nox.Session, plugin: str, refusal: str) -> str:
    """Return whether a plugin works with the installed kernel, is refused with the expected message, or fails."""
    command = ["seg-kernel", "plugins", "check", plugin, "--deep", "--json"]
    quiet = {"silent": True, "stderr": subprocess.DEVNULL, "success_codes": [0, 3]}
    found = json.loads(session.run(*command, env={"SEGKERNEL_STRICT": "0"}, **quiet))
    failed = [entry for entry in found if entry["status"] == "failed"]
    refused = [entry["message"] for entry in failed if entry["check"] == "status"]
    if refused:
        return f"refused: {refused[0]}" if refusal and refusal in refused[0] else f"fails: is refused: {refused[0]}"
    if refusal:
        return f"fails: is not refused with {refusal!r}"
    reasons = [f"{entry['component']} {entry['check']} ({entry['message'].partition(chr(10))[0]})" for entry in failed]
    return f"fails: {', '.join(reasons)}" if failed else "works"


def accepted(plugin: str, tree: Path = ROOT) -> str:
    """Return the kernel versions that a plugin accepts, as written in its metadata."""
    requirements = project(tree / "plugins" / plugin)["dependencies"]
    return next(text.removeprefix("seg-kernel") for text in requirements if Requirement(text).name == "seg-kernel")


def version_of(wheel: Path) -> str:
    """Return the version in a wheel's file name."""
    return wheel.name.split("-")[1]


def previous_wheels(session: nox.Session) -> tuple[str, dict[str, Path]]:
    """Return the previous release (its tag, or the commit in compat.toml) and its wheels."""
    tags = git("tag", "--list", "v*", "--merged", "HEAD", "--no-contains", "HEAD", "--sort=-v:refname").split()
    revision = tags[0] if tags else read_toml(ROOT / "compat.toml")["previous"]
    try:
        archive = _call("git", "-C", ROOT, "archive", revision, "kernel", "plugins", capture_output=True).stdout
    except subprocess.CalledProcessError:
        session.warn(f"{revision} is not in this clone (git fetch --unshallow --tags): not tested with it")
        return revision, {}
    shutil.rmtree(PREVIOUS, ignore_errors=True)
    with tarfile.open(fileobj=BytesIO(archive)) as files:
        files.extractall(PREVIOUS)
    return revision, wheels(PREVIOUS, "previous")


def next_major() -> Path:
    """Build the current kernel with the next major version number."""
    tree = WORK / "next-major"
    shutil.rmtree(tree, ignore_errors=True)
    shutil.copytree(ROOT / "kernel", tree / "kernel", ignore=shutil.ignore_patterns("__pycache__", "tests"))
    present = project(ROOT / "kernel")["version"]
    version = f"{int(present.split('.')[0]) + 1}.0.0"
    for file in ("pyproject.toml", "src/segkernel/__init__.py"):
        path = tree / "kernel" / file
        patched = re.sub(
            rf'^(__version__|version) = "{re.escape(present)}"',
            rf'\1 = "{version}"',
            path.read_text("utf-8"),
            flags=re.M,
        )
        path.write_text(patched, "utf-8")
    return wheels(tree, "next-major")["seg-kernel"]


def git(*arguments: str) -> str:
    """Return the output of a git command."""
    return _call("git", "-C", ROOT, *arguments, capture_output=True, text=True).stdout


# ---------------------------------------------------------------- sessions not run by default


@nox.session
@timed
def slow(session: nox.Session) -> None:
    """Slow tests of all packages: all published sizes and configs, export and compilation of every model family."""
    include(Path(session.virtualenv.location), full(), base())
    install_wheels(session, wheels())
    pytest(session, *PARALLEL, "kernel/tests", "plugins", "tests", "-m", "slow", "--durations=15")


@nox.session
@timed
def tests(session: nox.Session) -> None:
    """The checkout, installed in editable mode; arguments after ``--`` are passed to pytest."""
    include(Path(session.virtualenv.location), full(), base())
    install_wheels(session, wheels())  # for their requirements
    folders = [ROOT / "kernel", *plugin_folders()]
    editable = [part for folder in folders for part in ("-e", str(folder))]
    session.install("-q", "--no-deps", "--no-build-isolation", *editable)
    pytest(session, *PARALLEL, *(session.posargs or ("-m", "not slow", "--ignore=examples")))


@nox.session
@timed
def newest(session: nox.Session) -> None:
    """Quick tests and the kit with the newest versions of all requirements, including timm and albumentations."""
    ours = [with_extras(name, path, UNTESTED) for name, path in wheels().items()]
    session.install("-q", "--upgrade", *TEST_TOOLS, *ours, *dependency_groups("test", wheels()))
    what = f"the newest versions of all requirements, with all extras but {', '.join(sorted(SERVICES | DEVICES))}"
    test_and_report(session, "Newest", [*wheels()], what)


@nox.session
@nox.parametrize("plugin", [None, *HIGHER_BOUNDS], ids=["seg-kernel", *HIGHER_BOUNDS])
@timed
def lowest(session: nox.Session, plugin: str | None) -> None:
    """Quick tests and the kit with the lower bounds of all requirements; for `HIGHER_BOUNDS` separately."""
    names = ["seg-kernel", plugin] if plugin else sorted({"seg-kernel", *PLUGINS} - {*HIGHER_BOUNDS})
    constraints = Path(session.create_tmp()) / "lowest.txt"
    constraints.write_text("".join(f"{name}=={version}\n" for name, version in lower_bounds(names).items()), "utf-8")
    ours = [with_extras(name, wheels()[name]) for name in names]
    session.install("-q", "-c", str(constraints), *TEST_TOOLS, *ours, *dependency_groups("test", names))
    left = ", ".join(sorted(NEWEST_ONLY | SERVICES | DEVICES))
    what = f"the lower bounds of all requirements, with all extras but {left}"
    if not plugin:
        what += "; without FSDPEngine, which needs torch 2.6, and without exports and the tests of the docs"
    test_and_report(session, f"Lowest: {plugin}" if plugin else "Lowest", names, what)


def lower_bounds(names: Iterable[str]) -> dict[str, str]:
    """Return the oldest release of each requirement that satisfies all lower bounds."""
    bounds: dict[str, Version] = {}
    for requirement in all_requirements(names):
        for specifier in requirement.specifier:
            if specifier.operator == ">=":
                bound = Version(specifier.version)
                bounds[requirement.name] = max(bounds.get(requirement.name, bound), bound)
    return {name: oldest_release(name, bound) for name, bound in sorted(bounds.items())}


def all_requirements(names: Iterable[str] = ("seg-kernel", *PLUGINS)) -> Iterator[Requirement]:
    """Yield the requirements of packages, with extras except `NEWEST_ONLY` and `UNTESTED`."""
    for name in names:
        table = package(name)["project"]
        extras = table.get("optional-dependencies", {})
        for text in sum((extras[extra] for extra in extras.keys() - NEWEST_ONLY - UNTESTED), table["dependencies"]):
            if Requirement(text).name != "seg-kernel":
                yield Requirement(text)


def oldest_release(name: str, bound: Version) -> str:
    """Return the first release from a bound on that this Python can install, such as 4.8.0.74 for 4.8."""
    listed = _call(sys.executable, "-m", "pip", "index", "versions", name, capture_output=True, text=True).stdout
    (line,) = re.findall(r"^Available versions: (.+)$", listed, re.MULTILINE)
    return str(min(version for version in map(Version, line.split(", ")) if version >= bound))


def test_and_report(session: nox.Session, title: str, names: Sequence[str], what: str) -> None:
    """Run the kit and the quick tests in the session; write the results into docs/compatibility.md."""
    kit = [f"--segkernel-conformance={name}" for name in names]
    folders = [*map(own_tests, names), *(["tests", "--ignore=tests/test_third_party.py"] if len(names) > 2 else [])]
    left_out = () if {*HIGHER_BOUNDS} & {*names} else ("--ignore=tests/docs", "-k", "not export and not FSDPEngine")
    failed = pytest(session, *PARALLEL, *folders, *kit, "-m", "not slow", *left_out, check=False)
    listed = json.loads(session.run("python", "-m", "pip", "list", "--format=json", silent=True, stderr=None))
    versions = {_normal(entry["name"]): entry["version"] for entry in listed}
    required = {_normal(requirement.name) for requirement in all_requirements(names)}
    reported = sorted(required | NEWEST_ONLY | {"torchvision"})
    counts = " ".join(f"{number} {name}," for name, number in sorted(OUTCOMES[-1].items())).rstrip(",")
    lines = [
        f"Written by `nox -s '{session.name}'` on {datetime.date.today()}, Python {sys.version.split()[0]}: {what}.",
        "",
        ", ".join(f"{name} {versions[name]}" for name in reported if name in versions) + ".",
        "",
        f"Quick tests of all packages and the conformance kit: {counts}.",
        *(f"- fails: {name}" for name in failed),
    ]
    write_section(title, "\n".join(lines))
    if failed:
        session.error(f"{len(failed)} tests fail, see docs/compatibility.md")


# ---------------------------------------------------------------- reports


def write_releases(revision: str, rows: dict[str, dict[str, str]]) -> None:
    """Write the section of docs/compatibility.md on releases; equal results give equal text."""
    columns = ["accepts", "old kernel", "old plugin", "next major"]
    table = [[plugin, *(row.get(column, "not tested") for column in columns)] for plugin, row in rows.items()]
    lines = ["| " + " | ".join(cells) + " |" for cells in [["plugin", *columns], ["---"] * 5, *table]]
    version = version_of(wheels()["seg-kernel"])
    write_section("Releases", RELEASES.format(revision=revision[:12], kernel=version, table="\n".join(lines)))


def write_section(title: str, text: str) -> None:
    """Replace or add a section of docs/compatibility.md."""
    path = ROOT / "docs" / "compatibility.md"
    head, *sections = re.split(r"^## ", path.read_text("utf-8"), flags=re.MULTILINE)
    by_title = {section.partition("\n")[0]: section.partition("\n")[2].strip() for section in sections}
    by_title[title] = text.strip()
    path.write_text(head + "\n\n".join(f"## {name}\n\n{body}" for name, body in by_title.items()) + "\n", "utf-8")


RELEASES = """Written by `nox -s compat`. Current kernel: {kernel}. Previous release: {revision}, a tag, or the commit
in `compat.toml` until there is a tag.

{table}

- **accepts**: the kernel versions in the plugin's metadata.
- **old kernel**: the previous kernel with the current plugin. **old plugin**: the current kernel with the previous
  plugin. Both run `seg-kernel plugins check PLUGIN --deep`, which imports, builds and checks every component. A plugin
  whose bounds exclude the kernel, or that was written for older contracts, must be refused instead.
- **next major**: the current kernel with the next major version number. It must refuse the plugin without importing it,
  and state which versions the plugin accepts."""


def pytest(session: nox.Session, *arguments: str, check: bool = True) -> list[str]:
    """Run pytest and return the failed tests; a broken plugin is an error.

    Parallel processes get one thread each, since threads would compete for the cores.
    """
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"} if RESULTS_FILE or "-n" in arguments else {}
    report = Path(session.create_tmp()) / "report.xml"
    report.unlink(missing_ok=True)
    command = ("python", "-m", "pytest", "-q", f"--junitxml={report}", *arguments)
    failed = []
    try:
        session.run(*command, env={"SEGKERNEL_STRICT": "1", **threads}, success_codes=[0] if check else [0, 1])
    finally:
        failed += note_outcomes(report)
    return failed
