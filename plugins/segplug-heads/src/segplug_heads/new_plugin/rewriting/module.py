"""One module of MMSegmentation's world as a module of the new package."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from segkernel.errors import UsageError
from segplug_heads.new_plugin.package import Component as Entry
from segplug_heads.new_plugin.package import read_template
from segplug_heads.new_plugin.rewriting.calls import rewrite_calls
from segplug_heads.new_plugin.rewriting.components import Component, registered
from segplug_heads.new_plugin.rewriting.edits import Source, todos
from segplug_heads.new_plugin.rewriting.former import shim_module
from segplug_heads.new_plugin.rewriting.imports import Imports, defined_names


@dataclass(frozen=True)
class Moved:
    """Files of the new package that come from modules of others.

    Args:
        files: Texts by path.
        components: Their entry points.
        requires: Distributions that they need.
        todos: (path, line, what a person must do).
    """

    files: dict[str, str]
    components: list[Entry]
    requires: list[str]
    todos: list[tuple[str, int, str]]


def move_modules(paths: Collection[Path], package: str, group: str = "") -> Moved:
    """Return the modules at ``paths`` as modules of a package.

    Args:
        paths: Python files.
        package: The package's import name.
        group: Group of classes whose kind the files do not say.

    Raises:
        UsageError: A file is missing, is no Python, has another's name, or no file registers a class.
    """
    sources = {_module_name(path): (path, _read(path)) for path in paths}
    if len(sources) < len(paths):
        raise UsageError(f"--from: two files have the same name: {', '.join(map(str, paths))}")
    names = {module: defined_names(source.tree) for module, (_, source) in sources.items()}
    files: dict[str, str] = {}
    components: list[Entry] = []
    shims, requires = set[str](), set[str]()
    for module, (path, source) in sources.items():
        siblings = {other: found for other, found in names.items() if other != module}
        entries, imports = _move(source, package, module, siblings, path.resolve().parent.name, group)
        files[f"src/{package}/{module}.py"] = source.result()
        if entries:
            files[f"tests/test_{module}.py"] = _tests(package, module, entries)
        components += [entry for entry in entries if entry.group]
        shims, requires = shims | imports.shims, requires | imports.requires
    if not components:
        raise UsageError(
            f"--from: no class in {', '.join(map(str, paths))} is registered as a component; name its kind by --kind"
        )
    if shims:
        files[f"src/{package}/former.py"] = shim_module(shims)
    found = [(path, line, text) for path, file in files.items() for line, text in todos(file)]
    return Moved(files, components, ["torch>=2.4", "typing-extensions>=4.10", *sorted(requires)], found)


def _move(
    source: Source, package: str, module: str, siblings: Mapping[str, Collection[str]], folder: str, group: str
) -> tuple[list[Entry], Imports]:
    imports = Imports(package, siblings)
    imports.rewrite(source)
    rewrite_calls(source, imports)
    entries = []
    for found in registered(source, imports, folder, group):
        Component(source, imports, found).rewrite()
        entries.append(Entry(found.group, found.name, f"{package}.{module}:{found.node.name}"))
    if lines := imports.lines():
        _insert_imports(source, lines)
    return entries, imports


def _insert_imports(source: Source, lines: str) -> None:
    """Insert imports before the first import that is not from ``__future__``, or after the module's docstring."""
    body = source.tree.body
    others = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    first = next((node for node in others if getattr(node, "module", "") != "__future__"), None)
    if first is not None:
        source.insert_before(first, lines)
    elif ast.get_docstring(source.tree) is not None:
        source.insert_after(body[0], f"\n{lines}")
    else:
        source.insert_before(body[0], lines)


def _read(path: Path) -> Source:
    try:
        return Source(path.read_text("utf-8-sig").replace("\f", ""))
    except OSError as error:
        raise UsageError(f"--from: {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"--from: {path} is not a UTF-8 text: {error.reason}") from error
    except (SyntaxError, ValueError) as error:
        line = f":{error.lineno}" if isinstance(error, SyntaxError) else ""
        raise UsageError(f"--from: {path}{line} is not Python 3: {getattr(error, 'msg', error)}") from error


def _module_name(path: Path) -> str:
    name = re.sub(r"\W", "_", path.stem.lower())
    return f"module_{name}" if not name.isidentifier() or name in ("former", "__init__") else name


def _tests(package: str, module: str, entries: list[Entry]) -> str:
    rows = [f'    ("{entry.group}", "{entry.value.partition(":")[2]}", None),' for entry in entries]
    text = read_template("tests/former.py").replace("segplug_my_model", package).replace("module_of_former", module)
    return text.replace("    # COMPONENTS", "\n".join(rows))
