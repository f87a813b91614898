"""Calls whose arguments or names differ, anywhere in a module."""

from __future__ import annotations

import ast

from segplug_heads.new_plugin.rewriting.edits import Source
from segplug_heads.new_plugin.rewriting.former import NN
from segplug_heads.new_plugin.rewriting.imports import Imports

RENAMED = {"_transform_inputs": "select", "_forward_feature": "forward_feature"}
"""Methods of decode heads."""
REGISTRY_CALLS = ("build", "get")


def rewrite_calls(source: Source, imports: Imports) -> None:
    """Add the edits of a module's calls, attributes and decorators."""
    statements = _statements(source.tree)
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and node.attr in RENAMED:
            end = source.span(node)[1]
            source.edit(end - len(node.attr), end, RENAMED[node.attr])
        elif isinstance(node, ast.FunctionDef):
            _function(source, imports, node)
        elif isinstance(node, ast.ListComp):
            _drop_path_rates(source, imports, node)
        elif isinstance(node, ast.Call):
            _call(source, imports, node, statements)


def _function(source: Source, imports: Imports, node: ast.FunctionDef) -> None:
    """Rename a method, and remove decorators without effect."""
    if node.name in RENAMED:
        start = source.data.index(node.name.encode(), source.starts[node.lineno - 1] + node.col_offset)
        source.edit(start, start + len(node.name), RENAMED[node.name])
    for decorator in node.decorator_list:
        target = decorator.func if isinstance(decorator, ast.Call) else decorator
        if isinstance(target, ast.Name) and target.id in imports.dropped:
            source.remove_lines(decorator.lineno, decorator.end_lineno or decorator.lineno)


def _call(source: Source, imports: Imports, node: ast.Call, statements: dict[int, ast.stmt]) -> None:
    function = source.text(node.func)
    wanted = imports.wanted.get(NN, set())
    if function == "resize" and "resize" in wanted:
        names = {word.arg: word for word in node.keywords}
        source.remove_keyword(node, "warning")
        if word := names.get("input"):
            start = source.span(word)[0]
            source.edit(start, start + len("input"), "x")
        if "mode" not in names and len(node.args) < 4:  # the former default
            end = source.span(node)[1] - 1
            source.edit(end, end, ', mode="nearest"')
    registry, _, method = function.rpartition(".")
    builds = registry.rpartition(".")[2] in imports.registries and method in REGISTRY_CALLS
    if builds or function in ("build_loss", "build_head", "build_neck", "build_backbone"):
        text = "annotate the argument with Loss, Head, Neck or Backbone: it is then passed as an object, already built"
        source.todo(statements[node.lineno], text)


def _drop_path_rates(source: Source, imports: Imports, node: ast.ListComp) -> None:
    """Replace ``[x.item() for x in torch.linspace(0, rate, n)]``, which needs real tensors."""
    iterated = node.generators[0].iter
    if source.text(node.elt).endswith(".item()") and isinstance(iterated, ast.Call) and len(iterated.args) == 3:
        first, rate, depth = iterated.args
        if source.text(iterated.func) == "torch.linspace" and source.text(first) == "0":
            imports.want(NN, "linear_drop_path_rates")
            source.replace(node, f"linear_drop_path_rates({source.text(rate)}, {source.text(depth)})")


def _statements(tree: ast.Module) -> dict[int, ast.stmt]:
    """Return the innermost statement of every line."""
    found: dict[int, ast.stmt] = {}
    for node in ast.walk(tree):  # outer statements first
        if isinstance(node, ast.stmt):
            found |= dict.fromkeys(range(node.lineno, (node.end_lineno or node.lineno) + 1), node)
    return found
