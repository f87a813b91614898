"""Every check of this repository; ``nox`` runs them all, ``nox -s lint`` one, ``nox --list`` says what there is.

The matrix comes from ``plugins/*/pyproject.toml`` and from the Pythons found on this machine: a new plugin folder needs
no line here. What torch needs is installed once, into ``.nox/base-*``, and lent to each session's own environment by a
``.pth`` file: it holds exactly what the kernel requires, so that no plugin finds there what it forgot to declare.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path

import nox
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent
WORK = ROOT / ".nox"
CONSTRAINTS = ("-c", str(ROOT / "constraints.txt"))
UNTRIED = {"timm", "albumentations"}
"""Extras that are not installed: one brings torchvision, which fits one torch alone, the other a second OpenCV."""
PARALLEL = ("-n", "auto", "--dist", "worksteal")
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
TEST_TOOLS = ("pytest", "pytest-xdist", "hypothesis", "hatchling")

nox.needs_version = ">=2024.3"
nox.options.sessions = ["lint", "kernel", "alone", "together", "third_party", "compat", "tests"]
nox.options.error_on_external_run = True


# ---------------------------------------------------------------- what there is


def read_toml(path: Path) -> dict:
    """Return a TOML file."""
    return tomllib.loads(path.read_text("utf-8"))


def plugin_folders(tree: Path = ROOT) -> list[Path]:
    """Return the folders of a tree's plugins."""
    return sorted(path.parent for path in tree.glob("plugins/*/pyproject.toml"))


def found_pythons() -> list[str]:
    """Return those of `PYTHONS` that can be run here, and put them on the PATH where nox looks."""
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
    # A pyenv shim is there for every version that is installed, and fails for those that are not activated.
    return subprocess.run([python, "-c", ""], capture_output=True).returncode == 0


PLUGINS = [folder.name for folder in plugin_folders()]
HERE = found_pythons()


# ---------------------------------------------------------------- environments


@functools.cache
def base_site() -> Path:
    """Return the site-packages of the environment that holds what the kernel requires, torch included."""
    requirements = kernel_requirements()
    constraints = (ROOT / "constraints.txt").read_text("utf-8")
    key = hashlib.sha256("\n".join([sys.version, constraints, *requirements]).encode()).hexdigest()[:10]
    home = WORK / f"base-{key}"
    if not (home / "complete").exists():
        shutil.rmtree(home, ignore_errors=True)
        _call(sys.executable, "-m", "venv", home)
        _call(_python(home), "-m", "pip", "install", "-q", *CONSTRAINTS, *requirements)
        (home / "complete").touch()
    return _site(_python(home))


def kernel_requirements(without: Iterable[str] = ()) -> list[str]:
    """Return the kernel's requirements but those of the given names."""
    requirements = read_toml(ROOT / "kernel" / "pyproject.toml")["project"]["dependencies"]
    return [text for text in requirements if Requirement(text).name not in without]


def lend_base(session: nox.Session) -> None:
    """Let the session see the base environment; what it installs itself comes first."""
    session.install("-q", *CONSTRAINTS, *TEST_TOOLS)
    own = _site(Path(session.virtualenv.bin) / "python")
    (own / "base.pth").write_text(f"{base_site()}\n", "utf-8")


def _python(home: Path) -> Path:
    return home / ("Scripts" if os.name == "nt" else "bin") / "python"


def _site(python: Path) -> Path:
    script = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(subprocess.run([python, "-c", script], check=True, capture_output=True, text=True).stdout.strip())


def _call(*command: object, **options: object) -> subprocess.CompletedProcess:
    return subprocess.run([str(part) for part in command], check=True, **options)


# ---------------------------------------------------------------- wheels


@functools.cache
def builder() -> Path:
    """Return a Python that can build wheels without asking the network again."""
    home = WORK / "builder"
    if not (home / "complete").exists():
        shutil.rmtree(home, ignore_errors=True)
        _call(sys.executable, "-m", "venv", home)
        _call(_python(home), "-m", "pip", "install", "-q", *CONSTRAINTS, "hatchling")
        (home / "complete").touch()
    return _python(home)


@functools.cache
def wheels(tree: Path = ROOT, name: str = "present") -> dict[str, Path]:
    """Build the kernel and the plugins of a tree; return the wheels by distribution."""
    return build([tree / "kernel", *plugin_folders(tree)], WORK / "wheels" / name)


def build(folders: Sequence[Path], destination: Path) -> dict[str, Path]:
    """Build wheels from package folders; return them by distribution."""
    shutil.rmtree(destination, ignore_errors=True)
    options = ("-q", "--no-deps", "--no-build-isolation", "--wheel-dir")
    _call(builder(), "-m", "pip", "wheel", *options, destination, *folders)
    return {path.name.split("-")[0].replace("_", "-"): path for path in sorted(destination.glob("*.whl"))}


def install_wheels(session: nox.Session, built: dict[str, Path]) -> None:
    """Install wheels and what they require, for our own the optional parts as well: the tests try those too."""
    named = [f"{path}[{','.join(extras(name))}]" if extras(name) else str(path) for name, path in built.items()]
    session.install("-q", *CONSTRAINTS, *named)


def extras(plugin: str) -> list[str]:
    """Return the names of a plugin's optional parts, but for `UNTRIED`."""
    file = ROOT / "plugins" / plugin / "pyproject.toml"
    found = read_toml(file)["project"].get("optional-dependencies", {}) if file.exists() else {}
    return sorted(found.keys() - UNTRIED)


# ---------------------------------------------------------------- sessions


@nox.session
def lint(session: nox.Session) -> None:
    """Rules, format, types."""
    lend_base(session)
    session.install("-q", *CONSTRAINTS, "ruff", "mypy", "types-PyYAML")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")


@nox.session(python=HERE)
def kernel(session: nox.Session) -> None:
    """The kernel's wheel without torch, on every Python there is: what can run without it must."""
    session.install("-q", *CONSTRAINTS, "pytest", "hypothesis", *kernel_requirements(without=["torch"]))
    session.install("-q", "--no-deps", str(wheels()["seg-kernel"]))
    for arguments in (["--help"], ["plugins"], ["models"]):
        session.run("seg-kernel", *arguments, silent=True)
    pytest(session, "-p", "tests.without_torch", "kernel/tests")


@nox.session
@nox.parametrize("plugin", PLUGINS, ids=PLUGINS)
def alone(session: nox.Session, plugin: str) -> None:
    """A plugin's wheel beside the kernel's and nothing else: its own quick tests, and the conformance kit."""
    lend_base(session)
    install_wheels(session, {name: wheels()[name] for name in ("seg-kernel", plugin)})
    listed = session.run("seg-kernel", "plugins", "--json", silent=True)
    others = {entry["distribution"] for entry in json.loads(listed)["plugins"]} - {"seg-kernel", plugin}
    if others:
        session.error(f"{plugin} brought {', '.join(sorted(others))}: plugins must not depend on each other")
    pytest(session, *PARALLEL, f"plugins/{plugin}/tests", "-m", "not slow")
    conformance(session, plugin)


@nox.session
def together(session: nox.Session) -> None:
    """All wheels in one environment: the kit on each, the tests of the kernel, and those across packages."""
    lend_base(session)
    install_wheels(session, wheels())
    conformance(session, *wheels())
    pytest(session, *PARALLEL, "kernel/tests", "tests", "--ignore=tests/test_third_party.py", "-m", "not slow")


@nox.session
def third_party(session: nox.Session) -> None:
    """Packages of others, built from a copy outside the workspace and installed beside all of ours."""
    lend_base(session)
    outside = Path(session.create_tmp()) / "outside"
    shutil.rmtree(outside, ignore_errors=True)
    for folder in third_party_folders():
        shutil.copytree(folder, outside / folder.name, ignore=shutil.ignore_patterns("__pycache__"))
    built = build([outside / folder.name for folder in third_party_folders()], outside / "wheels")
    install_wheels(session, {**wheels(), **built})
    conformance(session, *built)
    own = [str(folder / "tests") for folder in third_party_folders() if (folder / "tests").is_dir()]
    pytest(session, *own, "tests/test_third_party.py")


def third_party_folders() -> list[Path]:
    """Return the packages that are in this repository but not of it."""
    return sorted(path.parent for parent in ("examples", "tests") for path in ROOT.glob(f"{parent}/*/pyproject.toml"))


@nox.session
def compat(session: nox.Session) -> None:
    """The previous release crossed with the present one, and a kernel of the next major version."""
    lend_base(session)
    revision, before = previous_wheels(session)
    now = wheels()
    install_wheels(session, now)
    rows = {plugin: {"accepts": accepted(plugin)} for plugin in PLUGINS}
    if before:
        cross(session, rows, "old kernel", {**now, "seg-kernel": before["seg-kernel"]})
        cross(session, rows, "old plugin", {**now, **before, "seg-kernel": now["seg-kernel"]})
    cross(session, rows, "next major", {**now, "seg-kernel": next_major()})
    write_report(revision, rows)
    failed = [f"{p}, {column}: {text}" for p, row in rows.items() for column, text in row.items() if "fails" in text]
    if failed:
        session.error("; ".join(failed))


def cross(session: nox.Session, rows: dict[str, dict[str, str]], column: str, mixture: dict[str, Path]) -> None:
    """Install a mixture of wheels over each other, try every plugin in it, and note what comes of it."""
    session.install("-q", "--no-deps", "--force-reinstall", *map(str, mixture.values()))
    for plugin, row in rows.items():
        if plugin in mixture:
            row[column] = outcome(session, plugin, refusal_wanted=column == "next major")


def outcome(session: nox.Session, plugin: str, refusal_wanted: bool) -> str:
    """Return how a plugin gets on with the kernel that is installed."""
    command = ["seg-kernel", "plugins", "check", plugin, "--deep", "--json"]
    quiet = {"silent": True, "stderr": subprocess.DEVNULL, "success_codes": [0, 3]}
    found = json.loads(session.run(*command, env={"SEGKERNEL_STRICT": "0"}, **quiet))
    failed = [entry for entry in found if entry["status"] == "failed"]
    refused = [entry["message"] for entry in failed if entry["check"] == "status"]
    if refusal_wanted and not (refused and accepted(plugin) in refused[0]):
        return f"fails: is not refused with the versions it accepts, but {refused or 'works'}"
    if refused:
        return f"refused: {refused[0]}"
    reasons = [f"{entry['component']} {entry['check']} ({entry['message'].partition(chr(10))[0]})" for entry in failed]
    return f"fails: {', '.join(reasons)}" if failed else "works"


def accepted(plugin: str) -> str:
    """Return the kernel versions a plugin accepts, as it writes them."""
    requirements = read_toml(ROOT / "plugins" / plugin / "pyproject.toml")["project"]["dependencies"]
    return next(text.removeprefix("seg-kernel") for text in requirements if Requirement(text).name == "seg-kernel")


def previous_wheels(session: nox.Session) -> tuple[str, dict[str, Path]]:
    """Return the previous release, its tag or the commit that compat.toml names, and its wheels."""
    tags = git("tag", "--list", "v*", "--merged", "HEAD", "--no-contains", "HEAD", "--sort=-v:refname").split()
    revision = tags[0] if tags else read_toml(ROOT / "compat.toml")["previous"]
    try:
        archive = _call("git", "-C", ROOT, "archive", revision, "kernel", "plugins", capture_output=True).stdout
    except subprocess.CalledProcessError:
        session.warn(f"{revision} is not in this clone (git fetch --unshallow --tags): not crossed with it")
        return revision, {}
    tree = WORK / "previous"
    shutil.rmtree(tree, ignore_errors=True)
    with tarfile.open(fileobj=BytesIO(archive)) as files:
        files.extractall(tree)
    return revision, wheels(tree, "previous")


def next_major() -> Path:
    """Build the present kernel under the next major version."""
    tree = WORK / "next-major"
    shutil.rmtree(tree, ignore_errors=True)
    shutil.copytree(ROOT / "kernel", tree / "kernel", ignore=shutil.ignore_patterns("__pycache__", "tests"))
    present = read_toml(ROOT / "kernel" / "pyproject.toml")["project"]["version"]
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


def write_report(revision: str, rows: dict[str, dict[str, str]]) -> None:
    """Write docs/compatibility.md; the same results give the same file."""
    columns = ["accepts", "old kernel", "old plugin", "next major"]
    table = [[plugin, *(row.get(column, "not tried") for column in columns)] for plugin, row in rows.items()]
    lines = ["| " + " | ".join(cells) + " |" for cells in [["plugin", *columns], ["---"] * 5, *table]]
    text = REPORT.format(
        revision=revision[:12], kernel=wheels()["seg-kernel"].name.split("-")[1], table="\n".join(lines)
    )
    (ROOT / "docs" / "compatibility.md").write_text(text, "utf-8")


def git(*arguments: str) -> str:
    """Return what git prints."""
    return _call("git", "-C", ROOT, *arguments, capture_output=True, text=True).stdout


REPORT = """# Compatibility

Written by `nox -s compat`. Present kernel: {kernel}. Previous release: {revision}, a tag, or the commit
that `compat.toml` names until there is one.

{table}

- **accepts**: the kernel versions the plugin's metadata ask for.
- **old kernel**: the previous kernel with the present plugin. **old plugin**: the present kernel with the previous
  plugin. Both run `seg-kernel plugins check PLUGIN --deep`: everything is imported, built and checked.
- **next major**: the present kernel under the next major version. It must refuse the plugin, unimported, and say which
  versions it accepts.
"""


@nox.session
def tests(session: nox.Session) -> None:
    """Everything on the checkout; arguments after ``--`` go to pytest instead."""
    lend_base(session)
    install_wheels(session, wheels())  # for what they require
    session.install("-q", "editables")
    folders = [ROOT / "kernel", *plugin_folders()]
    editable = [part for folder in folders for part in ("-e", str(folder))]
    session.install("-q", "--no-deps", "--no-build-isolation", *editable)
    others = ("--ignore=examples", "--ignore=tests/test_third_party.py")  # run by the session third_party
    pytest(session, *PARALLEL, *(session.posargs or ("--durations=15", *others)))


def conformance(session: nox.Session, *distributions: str) -> None:
    """Run the kit on installed distributions, one test per component and check."""
    pytest(session, *PARALLEL, *(f"--segkernel-conformance={name}" for name in distributions))


def pytest(session: nox.Session, *arguments: str) -> None:
    """Run pytest; a broken plugin is fatal. Several processes of one thread each do more than threads that wait."""
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"} if "-n" in arguments else {}
    session.run("python", "-m", "pytest", "-q", *arguments, env={"SEGKERNEL_STRICT": "1", **threads})
