"""The values of the expressions of a config, from the syntax tree."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from segkernel.config.marks import MarkedDict, MarkedList, Place
from segkernel.errors import ConfigError
from segplug_heads.moving_in.limits import DEEPEST, Budget, Refusal, refused
from segplug_heads.moving_in.merging import merge
from segplug_heads.moving_in.operations import (
    ARITHMETIC,
    COMPARISONS,
    FUNCTIONS,
    METHODS,
    STRING_METHODS,
    UNARY,
    format_value,
)

SUPPORTED = (
    "configs may use literals, dict(), arithmetic, string methods, f-strings, comprehensions, loops over constants"
)
_FIELD = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")
_SCOPED = ("mmdet", "mmpretrain", "mmcls", "mmseg", "mmengine", "mmcv", "torch")


class Module(str):
    """An imported module; its classes are names for ``type``."""


@dataclass
class Expressions:
    """Evaluates the expressions of one file.

    Args:
        label: The file's name in places.
        budget: Shared by all files of a config.
        names: Names that exist before the first line, ``_base_``; assigned names are added.
        fields: Values of ``{{ fileDirname }}`` and its kin.
        used: Names that expressions refer to are added here.
    """

    label: str
    budget: Budget
    names: dict[str, Any]
    fields: Mapping[str, str]
    used: set[str]
    places: dict[str, Place] = field(default_factory=dict, init=False)
    hidden: set[str] = field(init=False)  # names that are not part of the config
    has_read_base: bool = field(default=False, init=False)  # dicts are MMEngine's then, whose ``update`` merges deep
    depth: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.hidden = set(self.names)

    def value(self, node: ast.expr) -> Any:
        """Return the value of an expression."""
        return self._visit(node)

    def _visit(self, node: ast.AST) -> Any:
        method = getattr(self, f"_{type(node).__name__}", None)
        if method is None:
            raise refused(f"{described(node)} is not read in a config", self._place(node), SUPPORTED)
        self.depth += 1
        try:
            self.budget.charge(1)
            if self.depth > DEEPEST:
                raise Refusal("is nested too deeply")
            return self.budget.checked(method(node))
        except ConfigError:
            raise
        except Refusal as error:
            raise refused(str(error), self._place(node)) from None
        except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
            reason = f"there is no {error}" if isinstance(error, KeyError) else str(error)
            raise refused(f"cannot be evaluated: {reason}"[:300], self._place(node)) from None
        finally:
            self.depth -= 1

    def _place(self, node: ast.AST) -> Place:
        return Place(self.label, getattr(node, "lineno", 1), getattr(node, "col_offset", 0) + 1)

    def _assign(self, target: ast.expr, value: Any, place: Place) -> None:
        if isinstance(target, ast.Name):
            self.names[target.id], self.places[target.id] = value, place
            self.hidden.discard(target.id)
        elif isinstance(target, (ast.Tuple, ast.List)):
            values = list(value)
            if len(values) != len(target.elts) or any(isinstance(item, ast.Starred) for item in target.elts):
                raise Refusal(f"assigns {len(values)} values to {len(target.elts)} names")
            for item, part in zip(target.elts, values):
                self._assign(item, part, place)
        elif isinstance(target, (ast.Subscript, ast.Attribute)):
            holder, key = self._item(target)
            holder[key] = value
            if isinstance(holder, (MarkedDict, MarkedList)):
                holder.places[key] = place
        else:
            raise Refusal("assigns to something that is not a name or an item")

    def _item(self, node: ast.Subscript | ast.Attribute) -> tuple[Any, Any]:
        """Return the container of ``container[key]`` or ``container.key``, and the key."""
        holder = self.value(node.value)
        if not isinstance(holder, (dict, list)):
            raise Refusal("assigns to an item of something that is not a dict or a list")
        return holder, node.attr if isinstance(node, ast.Attribute) else self.value(node.slice)

    def _Constant(self, node: ast.Constant) -> Any:
        if isinstance(node.value, (bytes, complex)) or node.value is Ellipsis:
            raise Refusal("a config holds text, numbers, true, false and None")
        return self._filled(node.value) if isinstance(node.value, str) and "{{" in node.value else node.value

    def _filled(self, text: str) -> Any:
        """Return text with the values of its ``{{ ... }}``; text that is nothing else is that value itself."""
        if whole := _FIELD.fullmatch(text):
            return self._field(whole[1])
        return _FIELD.sub(lambda match: format_value(self.budget, self._field(match[1])), text)

    def _field(self, name: str) -> Any:
        if name in self.fields:
            return self.fields[name]
        if name.startswith("$"):
            default = name.partition(":")[2]
            if ":" not in name:
                raise Refusal(f"the environment variable {name} is not read, and has no default after ':'")
            return default
        if not name.startswith("_base_."):
            raise Refusal(f"unknown: {{{{ {name} }}}}")
        value: Any = self.names.get("_base_", {})
        self.used.add(name.split(".")[1])
        for key in name.split(".")[1:]:
            value = value[int(key) if isinstance(value, list) else key]
        return value

    def _Name(self, node: ast.Name) -> Any:
        if node.id not in self.names:
            raise Refusal(f"there is no {node.id}")
        self.used.add(node.id)
        return self.names[node.id]

    def _List(self, node: ast.List) -> MarkedList:
        result = MarkedList(place=self._place(node))
        for item in node.elts:
            for value in self._spread(item):
                result.places[len(result)] = self._place(item)
                result.append(value)
        return result

    def _Tuple(self, node: ast.Tuple) -> tuple[Any, ...]:
        return tuple(value for item in node.elts for value in self._spread(item))

    def _Set(self, node: ast.Set) -> Any:
        inner = node.elts[0]
        if len(node.elts) == 1 and isinstance(inner, ast.Set) and len(inner.elts) == 1:  # {{_base_.x}}
            return self._field(ast.unparse(inner.elts[0]))
        raise Refusal("a set is not read in a config: write a list")

    def _spread(self, item: ast.expr) -> Iterator[Any]:
        if isinstance(item, ast.Starred):
            yield from self._items(item.value)
        else:
            yield self.value(item)

    def _Dict(self, node: ast.Dict) -> MarkedDict:
        result = MarkedDict(place=self._place(node))
        for key, value in zip(node.keys, node.values):
            if key is None:
                _update(result, self._mapping(value))
            else:
                name = self._key(self.value(key))
                result[name], result.places[name] = self.value(value), self._place(key)
        return result

    def _key(self, key: Any) -> Any:
        if not isinstance(key, (str, int)):
            raise Refusal("a key is a text or an integer")
        return key

    def _mapping(self, node: ast.expr) -> dict[Any, Any]:
        value = self.value(node)
        if not isinstance(value, dict):
            raise Refusal("** needs a dict")
        self.budget.charge(len(value))
        return value

    def _BinOp(self, node: ast.BinOp) -> Any:
        return self._binary(node.op, node.left, node.right)

    def _binary(self, operator: ast.operator, left: ast.expr, right: ast.expr) -> Any:
        operation = ARITHMETIC.get(type(operator).__name__)
        if operation is None:
            raise Refusal(f"the operator {type(operator).__name__} is not read in a config")
        return operation(self.budget, self.value(left), self.value(right))

    def _UnaryOp(self, node: ast.UnaryOp) -> Any:
        if type(node.op).__name__ not in UNARY:
            raise Refusal("the operator ~ is not read in a config")
        return UNARY[type(node.op).__name__](self.value(node.operand))

    def _BoolOp(self, node: ast.BoolOp) -> Any:
        is_and = isinstance(node.op, ast.And)
        for item in node.values:
            value = self.value(item)
            if bool(value) != is_and:
                break
        return value

    def _Compare(self, node: ast.Compare) -> bool:
        left = self.value(node.left)
        for operation, item in zip(node.ops, node.comparators):
            right = self.value(item)
            self.budget.weigh([left, right])
            if not COMPARISONS[type(operation).__name__](left, right):
                return False
            left = right
        return True

    def _IfExp(self, node: ast.IfExp) -> Any:
        return self.value(node.body if self.value(node.test) else node.orelse)

    def _Subscript(self, node: ast.Subscript) -> Any:
        holder = self.value(node.value)
        if not isinstance(holder, (dict, list, tuple, str)):
            raise Refusal(f"{type(holder).__name__} has no items")
        return holder[self.value(node.slice)]

    def _Slice(self, node: ast.Slice) -> slice:
        return slice(*(None if part is None else self.value(part) for part in (node.lower, node.upper, node.step)))

    def _Attribute(self, node: ast.Attribute) -> Any:
        holder = self.value(node.value)
        if isinstance(holder, Module):
            return _member(holder, node.attr)
        if isinstance(holder, dict) and node.attr in holder:
            if isinstance(node.value, ast.Name) and node.value.id == "_base_":
                self.used.add(node.attr)
            return holder[node.attr]
        raise Refusal(f"there is no {ast.unparse(node)[:80]}")

    def _JoinedStr(self, node: ast.JoinedStr) -> str:
        return "".join(str(self.value(part)) for part in node.values)

    def _FormattedValue(self, node: ast.FormattedValue) -> str:
        value, spec = self.value(node.value), self.value(node.format_spec) if node.format_spec else ""
        if node.conversion != -1:
            self.budget.weigh(value)
            value = str(value) if chr(node.conversion) == "s" else repr(value)
        return format_value(self.budget, value, spec)

    def _ListComp(self, node: ast.ListComp | ast.GeneratorExp) -> MarkedList:
        return MarkedList(self._each(node.generators, lambda: self.value(node.elt)), place=self._place(node))

    _GeneratorExp = _ListComp

    def _DictComp(self, node: ast.DictComp) -> MarkedDict:
        pairs = self._each(node.generators, lambda: (self._key(self.value(node.key)), self.value(node.value)))
        return MarkedDict(pairs, place=self._place(node))

    def _each(self, generators: list[ast.comprehension], make: Callable[[], Any]) -> list[Any]:
        """Return what ``make`` returns for every item of nested loops; their names exist inside only."""
        outer, found = dict(self.names), []
        first, rest = generators[0], generators[1:]
        for item in self._items(first.iter):
            self._assign(first.target, item, self._place(first.target))
            if all(self.value(test) for test in first.ifs):
                found += self._each(rest, make) if rest else [make()]
        self.names = outer
        return found

    def _items(self, node: ast.expr) -> list[Any]:
        values = self.value(node)
        if not isinstance(values, (list, tuple, dict, str)):
            raise Refusal("loops over something that is not a list")
        self.budget.charge(len(values))
        return list(values)

    def _Call(self, node: ast.Call) -> Any:
        values = [value for item in node.args for value in self._spread(item)]
        named: dict[str, Any] = {}
        places: dict[str, Place] = {}
        for keyword in node.keywords:
            more = self._mapping(keyword.value) if keyword.arg is None else {keyword.arg: self.value(keyword.value)}
            named.update(more)
            places.update(dict.fromkeys(more, Place(self.label, keyword.value.lineno, keyword.value.col_offset + 1)))
        if isinstance(node.func, ast.Name) and node.func.id not in self.names:
            return self._function(node.func.id, values, named, places, self._place(node))
        if isinstance(node.func, ast.Attribute):
            return self._method(node.func, values, named, places)
        raise Refusal(f"calls {ast.unparse(node.func)[:80]}, which would run code")

    def _function(self, name: str, values: list[Any], named: dict[str, Any], places: Any, place: Place) -> Any:
        if name == "dict":
            result = MarkedDict(*values, place=place)
            if values and isinstance(values[0], MarkedDict):
                result.places.update(values[0].places)
            _update(result, MarkedDict(named, places=places))
            return result
        if name not in FUNCTIONS:
            raise Refusal(f"calls {name}, which would run code")
        return FUNCTIONS[name](self.budget, *values, **named)

    def _method(self, node: ast.Attribute, values: list[Any], named: dict[str, Any], places: Any) -> Any:
        holder = self.value(node.value)
        allowed = next((names for kind, names in METHODS.items() if isinstance(holder, kind)), ())
        if isinstance(holder, Module) or node.attr not in allowed:
            raise Refusal(f"calls {ast.unparse(node)[:80]}, which would run code")
        if isinstance(holder, str) and node.attr in STRING_METHODS:
            return STRING_METHODS[node.attr](self.budget, holder, *values, **named)
        if node.attr in ("update", "merge"):
            given = MarkedDict(*values)
            is_deep = node.attr == "merge" or self.has_read_base
            self.budget.weigh(given) if is_deep else self.budget.charge(len(given))
            given.places.update(getattr(values[0], "places", {}) if values else {})
            _update(given, MarkedDict(named, places=places))
            _update(holder, merge(holder, given) if is_deep else given)
            return None
        self.budget.weigh([values, holder] if node.attr in ("count", "index", "remove") else [])
        self.budget.charge(len(holder) + sum(len(value) for value in values if isinstance(value, (list, tuple, str))))
        result = getattr(holder, node.attr)(*values, **named)
        return list(result) if node.attr in ("items", "keys", "values") else result


def class_name(module: str, name: str) -> str:
    """Return the ``type`` of a class imported from a module: ``Name``, ``scope.Name`` or ``module:Name``."""
    package = module.partition(".")[0]
    if package not in _SCOPED:
        return f"{module}:{name}"
    return f"{package}.{name}" if package in ("mmdet", "mmpretrain", "mmcls") else name


def _member(module: Module, name: str) -> str:
    return class_name(module, name) if name[:1].isupper() else Module(f"{module}.{name}")


def _update(target: dict[Any, Any], source: dict[Any, Any]) -> None:
    target.update(source)
    if isinstance(target, MarkedDict):
        target.places.update(getattr(source, "places", {}))


def described(node: ast.AST) -> str:
    """Return what a node is called in messages."""
    words = {"FunctionDef": "a function", "ClassDef": "a class", "Lambda": "a lambda", "While": "a while loop"}
    words |= {"Try": "try", "Assert": "assert", "Raise": "raise", "Await": "await", "Global": "global"}
    return words.get(type(node).__name__, type(node).__name__)
