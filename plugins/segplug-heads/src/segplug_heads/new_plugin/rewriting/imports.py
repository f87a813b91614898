"""Imports from mmcv, mmengine, mmseg and timm, and relative ones, as imports of what takes their place."""

from __future__ import annotations

import ast
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from segkernel.catalog import CONTRACT, Catalog
from segplug_heads.new_plugin.rewriting.edits import MARK, Source
from segplug_heads.new_plugin.rewriting.former import DROPPED, EQUIVALENTS, PACKAGES, REGISTRIES, shims

PRESENT = ("torch", "numpy", "typing_extensions", "segkernel")
"""Third-party modules that the package requires anyway."""
WIDTH = 120
"""Longest line that is written."""
DISTRIBUTIONS = {"cv2": "opencv-python-headless", "PIL": "pillow", "yaml": "pyyaml", "skimage": "scikit-image"}
"""Distributions that are not called like their module."""


@dataclass
class Imports:
    """What the imports of a module become.

    Args:
        package: The new package.
        siblings: Names that the package's other modules define, by module.
        wanted: Names to import, by module: {"segkernel.nn": {"ConvModule"}}; ``a as b`` for another local name.
        shims: Names that ``former.py`` must define.
        requires: Distributions that the module needs.
        registries: Local names of registries.
        dropped: Local names of decorators without effect.
    """

    package: str
    siblings: Mapping[str, Collection[str]]
    wanted: dict[str, set[str]] = field(default_factory=dict)
    shims: set[str] = field(default_factory=set)
    requires: set[str] = field(default_factory=set)
    registries: dict[str, str] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)

    def want(self, module: str, name: str, local: str = "") -> None:
        """Import a name."""
        self.wanted.setdefault(module, set()).add(name if local in ("", name) else f"{name} as {local}")

    def rewrite(self, source: Source) -> None:
        """Replace the imports of a module, rename what has another name, and mark what has no equivalent."""
        used = {node.id for node in ast.walk(source.tree) if isinstance(node, ast.Name)}
        undefined = used - _bound(source.tree)
        for node in [node for node in ast.walk(source.tree) if isinstance(node, ast.Import | ast.ImportFrom)]:
            module = getattr(node, "module", None) or ""
            if isinstance(node, ast.ImportFrom) and (node.level or module.partition(".")[0] in PACKAGES):
                self._replace(source, node, module, used, undefined)
            else:
                self._keep(source, node, used)

    def lines(self) -> str:
        """Return the new imports: of the standard library, of other packages, of the new package."""

        def order(module: str) -> tuple[bool, bool, str]:
            root = module.partition(".")[0]
            return root == self.package, root not in sys.stdlib_module_names, module

        return "\n".join(_import_line(module, self.wanted[module]) for module in sorted(self.wanted, key=order))

    def _replace(self, source: Source, node: ast.ImportFrom, module: str, used: set[str], undefined: set[str]) -> None:
        unknown = []
        for alias in node.names:
            local = alias.asname or alias.name
            if alias.name == "*":
                for name in sorted(undefined):
                    self._resolve(source, name, name, module)
            elif not self._resolve(source, alias.name, local, module) and local in used:
                unknown.append(alias.name)
        origin = f"{'.' * node.level}{module}"
        what = "is not known: take its file over with another --from, or copy it"
        lines = [f"# {MARK}: {name} of {origin} {what}" for name in unknown]
        if not lines and _is_alone(source.tree, node):
            lines = ["pass"]
        indentation = source.indentation(node)
        source.remove_lines(node.lineno, node.end_lineno or node.lineno)
        start = source.starts[node.lineno - 1]
        source.edit(start, start, "".join(f"{indentation}{line}\n" for line in lines))

    def _resolve(self, source: Source, name: str, local: str, module: str) -> bool:
        """Import the equivalent of a name; return whether there is one."""
        if name in REGISTRIES:
            self.registries[local] = REGISTRIES[name]
        elif name in DROPPED:
            self.dropped.add(local)
        elif home := next((stem for stem, names in self.siblings.items() if name in names), ""):
            self.want(f"{self.package}.{home}", name, local)
        elif name in EQUIVALENTS:
            home, new = EQUIVALENTS[name]
            free = new == name or new not in _bound(source.tree)
            if local == name and free:
                _rename(source, name, new)
                self.want(home, new)
            else:
                self.want(home, new, local)
        elif name in shims():
            self.shims.add(name)
            self.want(f"{self.package}.former", name, local)
        elif row := _component(name):
            self.want(row[0].replace("-", "_"), name, local)
            self.requires.add(f"{row[0]}>={CONTRACT}")
        elif module.partition(".")[0] == "timm":
            self.want(module, name, local)
            self.requires.add("timm")
        else:
            return False
        return True

    def _keep(self, source: Source, node: ast.Import | ast.ImportFrom, used: set[str]) -> None:
        """Remove an import of a third-party module that is not used; require the others."""
        names = [alias.asname or alias.name.partition(".")[0] for alias in node.names]
        roots = {(getattr(node, "module", None) or alias.name).partition(".")[0] for alias in node.names}
        if roots & {*sys.stdlib_module_names, *PRESENT}:
            return
        if not used & {*names}:
            source.remove_lines(node.lineno, node.end_lineno or node.lineno)
        elif roots & {*PACKAGES}:
            source.todo(node, f"{', '.join(sorted(roots))} is not needed here: use segkernel.nn and torch")
        else:
            self.requires |= {DISTRIBUTIONS.get(root, root) for root in roots}


def _import_line(module: str, names: Collection[str]) -> str:
    line = f"from {module} import {', '.join(sorted(names))}"
    wrapped = "\n".join(f"    {name}," for name in sorted(names))
    return line if len(line) <= WIDTH else f"from {module} import (\n{wrapped}\n)"


def defined_names(tree: ast.Module) -> set[str]:
    """Return the classes, functions and constants of a module."""
    found = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    for node in tree.body:
        if isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


def _bound(tree: ast.Module) -> set[str]:
    """Return every name that a module, or a function in it, binds; builtins count as bound."""
    found = {*dir(__builtins__)} if not isinstance(__builtins__, dict) else {*__builtins__}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            found.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ExceptHandler) and node.name:
            found.add(node.name)
    return found


def _rename(source: Source, old: str, new: str) -> None:
    if old != new:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Name) and node.id == old:
                source.replace(node, new)


def _component(name: str) -> tuple[str, str] | None:
    """Return the distribution and the group of an installed component."""
    groups = ("segmentors", "backbones", "necks", "heads", "losses", "datasets", "transforms", "metrics")
    rows = (row for row in Catalog.discover().rows if row.group in groups and row.name == name)
    return next(((row.distribution, row.group) for row in rows if row.distribution.startswith("segplug-")), None)


def _is_alone(tree: ast.Module, node: ast.stmt) -> bool:
    """Whether a block would be empty without a statement."""
    return any(block == [node] for block in _blocks(tree))


def _blocks(tree: ast.Module) -> Iterator[list[ast.stmt]]:
    for node in ast.walk(tree):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list) and not isinstance(node, ast.Module):
                yield block
