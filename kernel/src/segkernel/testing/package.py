"""Checks of a distribution as a whole, of its zoo and of its commands."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import importlib_metadata

from segkernel.catalog import CONTRACT, GROUPS, Catalog
from segkernel.testing.core import CheckSkipped, Subject, check, require, skip_unless

KERNEL = "seg-kernel"
NOT_INSTALLED = 3  # the exit code of errors that end with a pip line
LIGHT = ("datasets", "transforms", "metrics")
BUILT = 12
_NAME = re.compile(r"[A-Za-z_][\w.-]*")


@check("package", name="kernel-bounds", example=False)
def kernel_bounds(subject: Subject) -> None:
    """Its requirement on the kernel has a lower and an upper bound."""
    skip_unless(subject.name != KERNEL, "the kernel itself")
    requires = subject.target[0].requires
    parts = [part.strip() for part in requires.split(",")]
    bounded = all(any(part.startswith(signs) for part in parts) for signs in ((">", "~", "="), ("<", "~", "=")))
    require(bounded, f"Requires-Dist on seg-kernel is {requires!r}; write seg-kernel>={CONTRACT},<1")


@check("package", name="names", example=False)
def names(subject: Subject) -> None:
    """Groups exist, and names can be written in a config."""
    for row in subject.target:
        require(row.group in GROUPS, f"unknown group segkernel.{row.group}; available: {', '.join(GROUPS)}")
        require(_NAME.fullmatch(row.name), f"{row.name!r} is not a valid component name")
    seen = [(row.group, row.name) for row in subject.target]
    twice = sorted({f"{group}/{name}" for group, name in seen if seen.count((group, name)) > 1})
    require(not twice, f"named twice: {', '.join(twice)}")


@check("package", name="light-import", example=False)
def light_import(subject: Subject) -> None:
    """Listing imports nothing of it; importing the package, its data sets, transforms or metrics imports no torch."""
    packages = {row.value.partition(":")[0].partition(".")[0] for row in subject.target}
    light = {row.value.partition(":")[0] for row in subject.target if row.group in LIGHT}
    modules = [*sorted(packages), *sorted(light - packages)]
    script = (
        "import sys; from segkernel.catalog import Catalog; Catalog.discover(); names = sys.argv[1:]\n"
        "found = [f'listing imports {n}' for n in names if n in sys.modules and n != 'segkernel']\n"
        "for n in names:\n"
        "    __import__(n)\n"
        "    found += [f'importing {n} imports torch'] * (sys.modules.pop('torch', None) is not None)\n"
        "print(*found[:1])"
    )
    ran = subprocess.run([sys.executable, "-c", script, *modules], capture_output=True, text=True)
    require(ran.returncode == 0, f"importing {', '.join(modules)} fails: {ran.stderr.strip().splitlines()[-1:]}")
    require(not ran.stdout.strip(), ran.stdout.strip())


@check("package", name="licence", example=False)
def licence(subject: Subject) -> None:
    """The wheel declares its licence and contains the text."""
    metadata = importlib_metadata.metadata(subject.name)
    classifiers = metadata.get_all("Classifier") or []
    named = metadata.get("License-Expression") or metadata.get("License")
    require(named or any(line.startswith("License ::") for line in classifiers), "its metadata names no licence")
    require(metadata.get_all("License-File"), "no licence file: license-files = ['LICENSE'] in pyproject.toml")


@check("zoo", name="files", example=False)
def zoo_files(subject: Subject) -> None:
    """The installed package contains the folder, with YAML files."""
    from segkernel.config.packaged import folders

    folder: Any = folders(subject.catalog).get(subject.target.distribution)
    require(folder, f"the folder {subject.target.value} is not installed")
    require(any(folder.rglob("*.yaml")), f"{folder} has no *.yaml; are the configs in the wheel?")


@check("zoo", name="configs", example=False)
def zoo_configs(subject: Subject) -> None:
    """Every published config loads, with existing components and arguments, or states why it is unavailable; in up to
    `BUILT` of them, spread evenly, the parts fit each other."""
    from segkernel.config import load_config
    from segkernel.config.sources import installed_sources
    from segkernel.errors import ConfigError
    from segkernel.experiment import check as check_config

    missing, catalog = list[str](), subject.catalog or Catalog.current()
    sources, more = installed_sources(catalog), [check for _, check in catalog.load_all("config_checks")]
    skip_unless(sources, "no installed config source reads it")
    prefix = f"{subject.target.distribution}::"
    published = [name for source in sources for name in source.names() if name.startswith(prefix)]
    for number, name in enumerate(published):
        try:
            config = load_config(name)
            problems = [] if "unavailable" in config.meta else check_config(config)
            if not problems and number % (len(published) // BUILT + 1) == 0:
                problems = [problem for each in more for problem in each(config)]
        except ConfigError as error:
            require(error.exit_code == NOT_INSTALLED, f"{name}: {error}")
            missing.append(str(error))
            continue
        absent = [problem for problem in problems if "pip install" in str(problem)]
        # A data part may contain a part of the model (its windows); the family's file completes it.
        is_part = "::data/" in name
        wrong = [p for p in problems if p not in absent and not (is_part and p.path == "model.type")]
        require(not wrong, f"{name}: {wrong[0]}" if wrong else "")
        missing += map(str, absent[:1])
    if missing and len(missing) == len(published):
        raise CheckSkipped(f"none can be loaded here: {missing[0]}")


@check("commands", name="help", example=False)
def command_help(subject: Subject) -> None:
    """It is a click command with a help text, and ``--help`` works."""
    import click
    from click.testing import CliRunner

    require(isinstance(subject.target, click.Command), f"it is a {type(subject.target).__name__}, not a click command")
    require(subject.target.help, "it has no help text: write a docstring")
    result = CliRunner().invoke(subject.target, ["--help"])
    require(result.exit_code == 0, f"--help ends with exit code {result.exit_code}: {result.output.strip()}")
