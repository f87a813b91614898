"""Edits of a source text at the positions of its syntax tree."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

MARK = "TODO(new-plugin)"
Node = ast.expr | ast.stmt | ast.arg | ast.keyword


class Source:
    """A Python source text, its syntax tree, and edits that are made all at once.

    Positions of a syntax tree count bytes of UTF-8, so the text is kept as such.

    Raises:
        SyntaxError: The text is not Python.
    """

    def __init__(self, text: str) -> None:
        self.data = text.encode("utf-8")
        self.tree = ast.parse(text)
        lines = self.data.splitlines(keepends=True)
        self.starts = [0]
        for line in lines:
            self.starts.append(self.starts[-1] + len(line))
        self._edits: list[tuple[int, int, bytes]] = []

    def span(self, node: Node) -> tuple[int, int]:
        """Return the start and the end of a node."""
        end_line, end = node.end_lineno or node.lineno, node.end_col_offset or 0
        return self.starts[node.lineno - 1] + node.col_offset, self.starts[end_line - 1] + end

    def text(self, node: Node) -> str:
        """Return the text of a node."""
        start, end = self.span(node)
        return self.data[start:end].decode("utf-8")

    def replace(self, node: Node, text: str) -> None:
        """Replace a node."""
        self.edit(*self.span(node), text)

    def edit(self, start: int, end: int, text: str) -> None:
        """Replace the bytes from ``start`` to ``end``; of two edits that overlap, the first is made."""
        if not any(start < other_end and other < end for other, other_end, _ in self._edits):
            self._edits.append((start, end, text.encode("utf-8")))

    def remove_lines(self, first: int, last: int) -> None:
        """Remove whole lines, counted from 1."""
        self.edit(self.starts[first - 1], self.starts[last], "")

    def remove_keyword(self, call: ast.Call, name: str) -> bool:
        """Remove a keyword argument of a call, with the comma beside it; return whether it was there."""
        given: list[Node] = [*call.args, *call.keywords]
        parts = sorted(given, key=lambda part: self.span(part)[0])
        for index, part in enumerate(parts):
            if isinstance(part, ast.keyword) and part.arg == name:
                start, end = self.span(part)
                if index + 1 < len(parts):
                    self.edit(start, self.span(parts[index + 1])[0], "")
                else:
                    self.edit(self.span(parts[index - 1])[1] if index else start, end, "")
                return True
        return False

    def insert_before(self, node: ast.stmt, text: str) -> None:
        """Insert lines before a statement, with its indentation."""
        start = self.starts[first_line(node) - 1]
        self.edit(start, start, _indent(text, self.indentation(node)))

    def insert_after(self, node: ast.stmt, text: str) -> None:
        """Insert lines after a statement, with its indentation."""
        start = self.starts[node.end_lineno or node.lineno]
        newline = "" if self.data[:start].endswith(b"\n") else "\n"
        self.edit(start, start, newline + _indent(text, self.indentation(node)))

    def todo(self, node: ast.stmt, text: str) -> None:
        """Say before a statement what a person must do."""
        self.insert_before(node, f"# {MARK}: {text}")

    def indentation(self, node: ast.stmt) -> str:
        """Return the white space before a statement."""
        start = self.starts[first_line(node) - 1]
        return re.match(rb"[ \t]*", self.data[start:]).group().decode()  # type: ignore[union-attr]

    def result(self) -> str:
        """Return the text with all edits."""
        data = self.data
        # From the end; at one position a replacement before insertions, and of these the last one first.
        numbered = [(start, start < end, index, end, text) for index, (start, end, text) in enumerate(self._edits)]
        for start, _, _, end, text in sorted(numbered, reverse=True):
            data = data[:start] + text + data[end:]
        return data.decode("utf-8")


def todos(text: str) -> Iterator[tuple[int, str]]:
    """Yield the line, from 1, and the text of each thing to do."""
    for number, line in enumerate(text.splitlines(), 1):
        if f"# {MARK}: " in line:
            yield number, line.partition(f"# {MARK}: ")[2]


def first_line(node: ast.stmt) -> int:
    """Return the first line of a statement, from 1, with its decorators."""
    decorators = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def _indent(text: str, indentation: str) -> str:
    return "".join(f"{indentation}{line}\n" if line else "\n" for line in text.splitlines())
