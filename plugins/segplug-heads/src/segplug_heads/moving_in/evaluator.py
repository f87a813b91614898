"""The values that a config in Python assigns, from its syntax tree: nothing is compiled or run.

    evaluate(text, "my_config.py", Budget())            # {"model": {"type": ...}, ...}

It reads what configs are written with: literals, ``dict()``, arithmetic, string methods, f-strings, comprehensions,
loops and conditions over constants, ``del``, ``.update`` and ``read_base``. Everything else is refused with its line.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

from segkernel.config.marks import MarkedDict, Place
from segplug_heads.moving_in.expressions import Expressions, Module, class_name, described
from segplug_heads.moving_in.limits import Refusal, refused


class _Jump(Exception):
    """``break``, which is the end of a loop, or ``continue``."""

    def __init__(self, is_end: bool) -> None:
        self.is_end = is_end


def parse(text: str, label: str) -> ast.Module:
    """Return the syntax tree of a file.

    Raises:
        ConfigError: It is not Python, or nested too deeply.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except SyntaxError as error:
        raise refused(f"is not valid Python: {error.msg}", f"{label}:{error.lineno or 1}:{error.offset or 1}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        message = "is nested too deeply" if isinstance(error, (RecursionError, MemoryError)) else str(error)
        raise refused(message, label) from None


@dataclass
class Evaluator(Expressions):
    """Carries out the statements of one file.

    Args:
        load_names: Returns the evaluator of the file that a ``from ... import`` under ``read_base`` means.
    """

    load_names: Callable[[str, int, Place], Evaluator]
    loops: int = field(default=0, init=False)

    def run(self, body: list[ast.stmt]) -> None:
        """Carry out statements.

        Raises:
            ConfigError: One of them is refused, or fails.
        """
        for statement in body:
            self._visit(statement)

    def config(self) -> MarkedDict:
        """Return the names that were assigned; modules, classes and private names are not part of a config."""
        kept = [name for name in self.names if name not in self.hidden and not name.startswith("__")]
        places = {name: place for name, place in self.places.items() if name in kept}
        return MarkedDict({name: self.names[name] for name in kept}, places=places, place=Place(self.label))

    def _Assign(self, node: ast.Assign) -> None:
        value = self.value(node.value)
        for target in node.targets:
            self._assign(target, value, self._place(node))

    def _AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self._assign(node.target, self.value(node.value), self._place(node))

    def _AugAssign(self, node: ast.AugAssign) -> None:
        self._assign(node.target, self._binary(node.op, node.target, node.value), self._place(node))

    def _Delete(self, node: ast.Delete) -> None:
        for target in node.targets:
            if isinstance(target, ast.Name):
                if target.id not in self.names:
                    raise Refusal(f"there is no {target.id}")
                del self.names[target.id]
            elif isinstance(target, (ast.Subscript, ast.Attribute)):
                holder, key = self._item(target)
                del holder[key]
            else:
                raise Refusal("deletes something that is not a name or an item")

    def _Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, (ast.Constant, ast.Call)):
            raise Refusal(f"{described(node.value)} has no effect here")
        self.value(node.value)

    def _Pass(self, node: ast.Pass) -> None:
        pass

    def _If(self, node: ast.If) -> None:
        self.run(node.body if self.value(node.test) else node.orelse)

    def _For(self, node: ast.For) -> None:
        self.loops += 1
        for item in self._items(node.iter):
            self._assign(node.target, item, self._place(node))
            try:
                self.run(node.body)
            except _Jump as jump:
                if jump.is_end:
                    break
        else:
            self.run(node.orelse)
        self.loops -= 1

    def _Break(self, node: ast.Break | ast.Continue) -> None:
        if not self.loops:
            raise Refusal("is outside of a loop")
        raise _Jump(isinstance(node, ast.Break))

    _Continue = _Break

    def _With(self, node: ast.With) -> None:
        call = node.items[0].context_expr
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "read_base"):
            raise Refusal("only 'with read_base():' is read in a config")
        self.has_read_base = True
        for statement in node.body:
            if not isinstance(statement, ast.ImportFrom):
                raise refused("only 'from ... import ...' stands under read_base", self._place(statement))
            loaded = self.load_names(statement.module or "", statement.level, self._place(statement))
            for alias in statement.names:
                self._take(loaded, alias.name, alias.asname or alias.name, self._place(statement))

    def _take(self, loaded: Evaluator, name: str, here: str, place: Place) -> None:
        if name == "*":
            for key in [key for key in loaded.names if not key.startswith("_")]:
                self._take(loaded, key, key, place)
            return
        if name not in loaded.names:
            raise refused(f"the base has no {name!r}", place)
        self.names[here], self.places[here] = loaded.names[name], loaded.places.get(name, place)
        (self.hidden.add if name in loaded.hidden else self.hidden.discard)(here)

    def _Import(self, node: ast.Import) -> None:
        for alias in node.names:
            name = alias.asname or alias.name.partition(".")[0]
            self.names[name] = Module(alias.name if alias.asname else name)
            self.hidden.add(name)

    def _ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            name = alias.asname or alias.name
            self.names[name] = class_name("." * node.level + (node.module or ""), alias.name)
            self.hidden.add(name)
