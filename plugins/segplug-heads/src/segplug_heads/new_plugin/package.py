"""The files of a new plugin package, as texts."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import segkernel
from segkernel.catalog import CONTRACT, GROUPS, PREFIX
from segplug_heads.new_plugin.kinds import KINDS
from segplug_heads.new_plugin.names import Names

TEMPLATES = Path(__file__).with_name("templates")
CodeHost = Literal["github", "gitlab", "none"]
Licence = Literal["Apache-2.0", "MIT", "BSD-3-Clause"]
HOSTS: tuple[str, ...] = get_args(CodeHost)
LICENCES: tuple[str, ...] = get_args(Licence)
_HOST_FILES = {"github": ".github/workflows/tests.yml", "gitlab": ".gitlab-ci.yml"}


@dataclass(frozen=True)
class Component:
    """One entry point of the new package.

    Args:
        group: Without prefix: ``heads``.
        name: As in a config's ``type``.
        value: ``module:attribute``.
    """

    group: str
    name: str
    value: str


@dataclass(frozen=True)
class Plan:
    """What the new package contains.

    Args:
        names: Its names.
        kinds: Kinds of components to write from templates.
        licence: SPDX identifier.
        author: Holder of the copyright.
        host: Code host of the workflow file.
        components: Further components, of ``files``.
        files: Further files, by path inside the package's folder.
        requires: Further requirements.
    """

    names: Names
    kinds: Sequence[str] = ()
    licence: str = "Apache-2.0"
    author: str = ""
    host: str = "github"
    components: Sequence[Component] = ()
    files: dict[str, str] = field(default_factory=dict)
    requires: Sequence[str] = ()

    def offered(self) -> list[Component]:
        """Return all entry points, in the order of the groups."""
        found = [*self.components, *(_of_template(self.names, kind) for kind in self.kinds)]
        if self.kinds:
            found.append(Component("zoo", self.names.distribution, f"{self.names.package}:zoo"))
        return sorted(found, key=lambda one: (list(GROUPS).index(one.group), one.name))


def package_files(plan: Plan) -> dict[str, str]:
    """Return the text of every file, by path inside the package's folder."""
    names, source = plan.names, f"src/{plan.names.package}"
    files = {
        "pyproject.toml": _pyproject(plan),
        "README.md": _readme(plan),
        "LICENSE": _licence(plan),
        "noxfile.py": names.fill(read_template("noxfile.py").replace("0.3", CONTRACT)),
        ".gitignore": read_template("gitignore"),
        f"{source}/__init__.py": f'"""{_description(plan)}"""\n',
        f"{source}/py.typed": "",
    }
    if plan.host in _HOST_FILES:
        files[_HOST_FILES[plan.host]] = read_template(f"{plan.host}.yml")
    for kind in plan.kinds:
        files[f"{source}/{kind}.py"] = names.fill(read_template(f"src/{kind}.py"))
        files[f"tests/test_{kind}.py"] = names.fill(read_template(f"tests/{kind}.py"))
    if plan.kinds:
        name = names.fill("my_model")
        files[f"{source}/zoo/{name}.yaml"] = _config(plan)
        files["tests/test_config.py"] = names.fill(read_template("tests/config.py"))
    return {**files, **plan.files}


def choose_lines(text: str, kinds: Sequence[str]) -> str:
    """Return the lines of a template that apply; ``# if head, unless neck`` at the end of a line is its condition."""

    chosen = []
    for line in text.splitlines():
        kept, _, mark = re.sub(r"\s+# (if|unless) ", r"\0\1 ", line, count=1).partition("\0")
        tests = [test.split() for test in mark.split(", ")] if mark else []
        if all((kind in kinds) == (word == "if") for word, kind in tests):
            chosen.append(kept)
    return "\n".join(chosen) + "\n"


def _of_template(names: Names, kind: str) -> Component:
    entry = KINDS[kind]
    name = names.fill(entry.entry or entry.template)
    return Component(entry.group, name, names.fill(f"segplug_my_model.{kind}:{entry.template}"))


def read_template(path: str) -> str:
    """Return the text of a template."""
    return (TEMPLATES / path).read_text("utf-8")


def _description(plan: Plan) -> str:
    groups = list(dict.fromkeys(one.group.replace("_", " ") for one in plan.offered() if one.group != "zoo"))
    return f"{plan.names.camel} for seg-kernel: {', '.join(groups)}."


def _pyproject(plan: Plan) -> str:
    upper = int(segkernel.__version__.split(".")[0]) + 1
    needed = [f"seg-kernel>={CONTRACT},<{upper}", *(text for kind in plan.kinds for text in KINDS[kind].requires)]
    tables: dict[str, list[str]] = {}
    for one in plan.offered():
        tables.setdefault(one.group, []).append(f'{_toml_key(one.name)} = "{one.value}"\n')
    points = "\n".join(f'[project.entry-points."{PREFIX}{group}"]\n{"".join(rows)}' for group, rows in tables.items())
    text = (
        read_template("pyproject.toml").replace("DESCRIPTION", _description(plan)).replace("SPDX-LICENCE", plan.licence)
    )
    quoted = ", ".join(f'"{one}"' for one in dict.fromkeys([*needed, *plan.requires]))
    return plan.names.fill(text.replace('"DEPENDENCIES"', quoted).replace("# ENTRY-POINTS\n", f"{points}\n"))


def _toml_key(name: str) -> str:
    return name if re.fullmatch(r"[\w-]+", name, re.ASCII) else f'"{name}"'


def _readme(plan: Plan) -> str:
    rows = [f"| `{one.name}` | {one.group} | `{one.value}` |" for one in plan.offered() if one.group != "zoo"]
    table = "\n".join(["| name | group | class |", "| --- | --- | --- |", *rows])
    text = choose_lines(read_template("README.md"), ["zoo"] if plan.kinds else [])
    return plan.names.fill(text.replace("DESCRIPTION", _description(plan)).replace("COMPONENTS", table))


def _licence(plan: Plan) -> str:
    author = plan.author or f"The authors of {plan.names.distribution}"
    text = read_template(f"licences/{plan.licence}.txt")
    return text.replace("YEAR", str(datetime.date.today().year)).replace("AUTHOR", author)


def _config(plan: Plan) -> str:
    text = choose_lines(read_template("config.yaml"), plan.kinds).replace("SPDX-LICENCE", plan.licence)
    return plan.names.fill(text)
