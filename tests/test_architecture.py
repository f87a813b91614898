"""Rules of the architecture, checked in the sources: imports between packages, imports of torch, limits on size."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import io
import statistics
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import segkernel

ROOT = Path(__file__).parents[1]
KERNEL = ROOT / "kernel" / "src" / "segkernel"
PLUGINS = sorted(path for path in ROOT.glob("plugins/*/src/*") if (path / "__init__.py").exists())
NAMES = [path.name for path in PLUGINS]
BUDGET = {"kernel": 5000, "nn": 1700, "testing": 1500}
"""Lines of code; the kernel's is a wall, see docs/architecture.md."""
LONGEST_FUNCTION = 80
LIGHT = ("__init__", "errors", "catalog", "known", "signature", "sample", "fields", "geometry", "hookspecs", "headers",
         "image", "labels", "opencv", "interfaces.data", "interfaces.spec", "config.*", "cli.*", "testing.__init__",
         "testing.core",
         "testing.plugin", "testing.package", "testing.signature", "testing.datasets", "testing.transforms",
         "testing.hooks")  # fmt: skip
"""Modules of the kernel that import no torch at the top."""


def modules(package: Path) -> dict[str, Path]:
    """Return the modules of a package by dotted name without the package's: ``nn.resize``, ``nn.__init__``."""
    return {".".join(path.relative_to(package).with_suffix("").parts): path for path in sorted(package.rglob("*.py"))}


@functools.cache
def parse(path: Path) -> ast.Module:
    """Return the syntax tree of a file, which several tests read."""
    return ast.parse(path.read_text("utf-8"))


@functools.cache
def imports(path: Path, top_only: bool = False) -> frozenset[str]:
    """Return the absolute names a module imports; those for type checkers only are left out when ``top_only``."""
    tree = parse(path)
    nodes = _top(tree.body) if top_only else ast.walk(tree)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def _top(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements that run when the module is imported."""
    for node in body:
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            yield from _top(node.body)
        if isinstance(node, ast.Try):
            yield from _top(node.body)


def code_lines(path: Path) -> int:
    """Count lines that hold code: no blanks, comments or docstrings."""
    source = path.read_text("utf-8")
    documentation: set[int] = set()
    for node in ast.walk(parse(path)):
        # A string that stands alone is documentation, of a module, a class, a function or an attribute.
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            documentation |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in skipped:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - documentation)


def functions(package: Path) -> Iterator[tuple[str, int]]:
    """Yield every function with its length in lines."""
    for name, path in modules(package).items():
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{package.name}.{name}:{node.name}", (node.end_lineno or node.lineno) - node.lineno + 1


def is_in(name: str, packages: list[str] | tuple[str, ...]) -> bool:
    """Whether a dotted name is one of these packages or inside one."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def test_the_kernel_imports_no_plugin() -> None:
    wrong = {(name, found) for name, path in modules(KERNEL).items() for found in imports(path) if is_in(found, NAMES)}
    assert not wrong


@pytest.mark.parametrize("package", PLUGINS, ids=NAMES)
def test_a_plugin_imports_no_other_plugin(package: Path) -> None:
    others = [name for name in NAMES if name != package.name]
    wrong = {
        (name, found) for name, path in modules(package).items() for found in imports(path) if is_in(found, others)
    }
    assert not wrong


@pytest.mark.parametrize("package", PLUGINS, ids=NAMES)
def test_a_plugin_imports_the_kernels_public_face_only(package: Path) -> None:
    allowed = [f"segkernel.{name}" for name in (*segkernel.PUBLIC_MODULES, *segkernel.__all__) if name != "testing"]
    used = {
        (name, found)
        for name, path in modules(package).items()
        for found in imports(path, top_only=False)
        if is_in(found, ["segkernel"]) and found not in _for_types(path)
    }
    wrong = {(name, found) for name, found in used if found != "segkernel" and not is_in(found, allowed)}
    assert not wrong


def test_every_public_module_exists_and_is_used() -> None:
    files = {name.partition(".")[0] for name in modules(KERNEL)}
    used = {found for package in PLUGINS for path in modules(package).values() for found in imports(path)}
    unused = {name for name in segkernel.PUBLIC_MODULES if not any(is_in(f, [f"segkernel.{name}"]) for f in used)}
    assert set(segkernel.PUBLIC_MODULES) <= files
    # Third-party plugins may subclass a default hook to replace it.
    assert unused <= {"testing", "hooks"}, "modules that no plugin uses should not be public"


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_pages_list_the_public_modules(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    wanted = [f"`.{name}`" for name in segkernel.PUBLIC_MODULES] if "architecture" in page else ["PUBLIC_MODULES"]
    assert [word for word in wanted if word not in text] == []


def test_no_module_of_the_kernel_imports_itself_through_others() -> None:
    graph = {name: _imported_modules(path) - {name} for name, path in modules(KERNEL).items()}
    while leaves := [name for name, needed in graph.items() if not needed & graph.keys()]:
        graph = {name: needed for name, needed in graph.items() if name not in leaves}
    # The remaining modules are part of a cycle, or import one.
    assert graph == {}


def _imported_modules(path: Path) -> set[str]:
    """Return the kernel's modules that one imports, also inside functions, but not for type checkers only."""
    files = modules(KERNEL)
    found = set()
    for name in imports(path):
        parts = name.split(".")[1:] if name.startswith("segkernel.") else []
        paths = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
        home = next((each for part in paths for each in (part, f"{part}.__init__") if each in files), None)
        if home is not None and name not in _for_types(path):
            found.add(home)
    return found


@functools.cache
def _for_types(path: Path) -> frozenset[str]:
    """Return the names that a module imports for type checkers only."""
    guarded = [n for n in ast.walk(parse(path)) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
    inner = [n for node in guarded for n in ast.walk(node) if isinstance(n, ast.ImportFrom)]
    return frozenset(f"{node.module}.{alias.name}" for node in inner for alias in node.names)


def test_light_modules_of_the_kernel_import_no_torch() -> None:
    wrong = {name for name, path in modules(KERNEL).items() if _is_light(name) and _imports_torch(path)}
    assert not wrong


def _is_light(name: str) -> bool:
    return name in LIGHT or f"{name.partition('.')[0]}.*" in LIGHT


@pytest.mark.parametrize("package", PLUGINS, ids=NAMES)
def test_the_init_of_a_plugin_imports_no_torch(package: Path) -> None:
    assert not _imports_torch(package / "__init__.py")


@pytest.mark.parametrize("package", NAMES)
def test_a_plugin_offers_its_components_by_name_and_to_dir(package: str) -> None:
    module = importlib.import_module(package)
    points = importlib.metadata.distribution(package.replace("_", "-")).entry_points
    kinds = ("backbones", "datasets", "exporters", "heads", "hooks", "losses", "metrics", "segmentors", "transforms")
    chosen = [point for point in points if point.group.removeprefix("segkernel.") in kinds]
    wanted = {point.value.partition(":")[2]: point for point in chosen}
    assert wanted
    assert wanted.keys() <= {*module.__all__} & {*dir(module)}
    assert not [name for name, point in wanted.items() if getattr(module, name) is not point.load()]


def test_data_sets_transforms_and_metrics_import_no_torch() -> None:
    package = ROOT / "plugins" / "segplug-datasets" / "src" / "segplug_datasets"
    assert not {name for name, path in modules(package).items() if _imports_torch(path)}


def _imports_torch(path: Path) -> bool:
    heavy = ("torch", "segkernel.nn", "segkernel.interfaces.model", "segkernel.engine", "segkernel.inference")
    return any(is_in(found, heavy) for found in imports(path, top_only=True))


@pytest.mark.parametrize("part", BUDGET)
def test_the_kernel_stays_within_its_budget(part: str) -> None:
    files = modules(KERNEL)
    apart = ("nn", "testing")
    chosen = [path for name, path in files.items() if name.partition(".")[0] == part]
    if part == "kernel":
        chosen = [path for name, path in files.items() if name.partition(".")[0] not in apart]
    lines = {path.relative_to(KERNEL).as_posix(): code_lines(path) for path in chosen}
    largest = sorted(lines.items(), key=lambda entry: -entry[1])[:8]
    assert sum(lines.values()) <= BUDGET[part], f"{sum(lines.values())} lines of code; the largest files: {largest}"


@pytest.mark.parametrize("package", [KERNEL, *PLUGINS], ids=["segkernel", *NAMES])
def test_no_function_is_too_long(package: Path) -> None:
    lengths = dict(functions(package))
    too_long = {name: lines for name, lines in lengths.items() if lines > LONGEST_FUNCTION}
    assert not too_long


def test_most_functions_are_short() -> None:
    lengths = [lines for package in (KERNEL, *PLUGINS) for _, lines in functions(package)]
    tenth = statistics.quantiles(lengths, n=10)[-1]
    assert statistics.median(lengths) <= 10
    assert tenth <= 35


def entry_points() -> list[tuple[str, str]]:
    """Return the entry points of the kernel and the plugins: where each stands, and its value."""
    found = []
    for file in [ROOT / "kernel" / "pyproject.toml", *sorted(ROOT.glob("plugins/*/pyproject.toml"))]:
        section = ""
        for line in file.read_text("utf-8").splitlines():
            section = line if line.startswith("[") else section
            name, equals, value = line.partition(" = ")
            if equals and section.startswith("[project.entry-points"):
                found.append((f"{file.parent.name}:{name}", value.strip('"')))
    return found


def test_what_every_entry_point_names_exists() -> None:
    assert {name: flaw for name, value in entry_points() if (flaw := _missing(value))} == {}


def _missing(value: str) -> str:
    """Return what an entry point names and is not there, or nothing."""
    module, _, attribute = value.partition(":")
    package, _, inside = module.partition(".")
    (folder,) = [path for path in (KERNEL, *PLUGINS) if path.name == package]
    path = folder.joinpath(*inside.split(".")) if inside else folder
    file = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"
    if not file.exists():
        return f"no module {module}"
    there = not attribute or (path / attribute).is_dir() or attribute in file.read_text("utf-8")
    return "" if there else f"no {value}"
