"""What expressions of a config may call and compute, with results of limited size.

Every function checks the size of its result before it makes it, and raises `Refusal` if that is too large.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from string import Formatter
from typing import Any

from segkernel.config.marks import MarkedDict, MarkedList
from segplug_heads.moving_in.limits import MOST_BITS, MOST_CHARACTERS, Budget, Refusal

Operation = Callable[[Budget, Any, Any], Any]

PLAIN = (str, int, float, bool, type(None))
"""Types of single values."""

_SEQUENCES = (list, tuple, str)
_LONG_NUMBER = re.compile(r"\d{4}")
_PERCENT = re.compile(r"%(?:\([^)]*\))?[-+ #0]*(\*?\d*)(?:\.(\*?\d*))?")


def add(budget: Budget, left: Any, right: Any) -> Any:
    """Return ``left + right``."""
    if isinstance(left, _SEQUENCES) and isinstance(right, _SEQUENCES):
        _bound(budget, len(left) + len(right), isinstance(left, str))
    return left + right


def multiply(budget: Budget, left: Any, right: Any) -> Any:
    """Return ``left * right``."""
    for one, other in ((left, right), (right, left)):
        if isinstance(one, _SEQUENCES) and isinstance(other, int):
            _bound(budget, len(one) * max(other, 0), isinstance(one, str))
    return left * right


def power(budget: Budget, left: Any, right: Any) -> Any:
    """Return ``left ** right``."""
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() * abs(right) > MOST_BITS:
        raise Refusal(f"makes an integer of more than {MOST_BITS} bits")
    return left**right


def modulo(budget: Budget, left: Any, right: Any) -> Any:
    """Return ``left % right``: of numbers, or a formatted string."""
    if isinstance(left, str):
        for width, precision in _PERCENT.findall(left):
            if "*" in width + precision or len(width) > 3 or len(precision) > 3:
                raise Refusal("formats with a width or precision above 999")
        budget.weigh(right)
        _bound(budget, len(left) + left.count("%") * _longest(right), True)
    return left % right


def merge_dicts(budget: Budget, left: Any, right: Any) -> Any:
    """Return ``left | right`` of two dicts."""
    if not (isinstance(left, dict) and isinstance(right, dict)):
        raise Refusal("uses | on something else than dicts")
    places = {**getattr(left, "places", {}), **getattr(right, "places", {})}
    return MarkedDict({**left, **right}, places=places, place=getattr(left, "place", None))


ARITHMETIC: dict[str, Operation] = {
    "Add": add,
    "Sub": lambda _, left, right: left - right,
    "Mult": multiply,
    "Div": lambda _, left, right: left / right,
    "FloorDiv": lambda _, left, right: left // right,
    "Mod": modulo,
    "Pow": power,
    "BitOr": merge_dicts,
}
"""Binary operators by the name of their node."""

COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "Eq": operator.eq,
    "NotEq": operator.ne,
    "Lt": operator.lt,
    "LtE": operator.le,
    "Gt": operator.gt,
    "GtE": operator.ge,
    "In": lambda left, right: left in right,
    "NotIn": lambda left, right: left not in right,
    "Is": operator.is_,
    "IsNot": operator.is_not,
}
"""Comparisons by the name of their node."""

UNARY: dict[str, Callable[[Any], Any]] = {"USub": operator.neg, "UAdd": operator.pos, "Not": operator.not_}
"""Unary operators by the name of their node."""


def format_value(budget: Budget, value: Any, spec: str = "") -> str:
    """Return a value as text, by a format spec."""
    if _LONG_NUMBER.search(spec):
        raise Refusal("formats with a width or precision above 999")
    budget.weigh(value)
    return str(budget.checked(format(value, spec)))


def format_text(budget: Budget, text: str, *values: Any, **named: Any) -> str:
    """Return ``text.format(*values, **named)``; fields are names or numbers without attributes and items."""
    budget.weigh([*values, *named.values()])
    _bound(budget, len(text) + text.count("{") * _longest([*values, *named.values()]), True)
    for _, field, spec, _ in Formatter().parse(text):
        if field is not None and re.search(r"[.\[]", field):
            raise Refusal("formats an attribute or item of a value")
        if _LONG_NUMBER.search(spec or "") or "{" in (spec or ""):
            raise Refusal("formats with a width or precision above 999")
        budget.charge(1)
    return text.format(*values, **named)


def join(budget: Budget, text: str, parts: Any) -> str:
    """Return ``text.join(parts)``."""
    parts = list(parts)
    _bound(budget, sum(len(part) + len(text) for part in parts), True)
    return text.join(parts)


def replace(budget: Budget, text: str, old: str, new: str, count: int = -1) -> str:
    """Return ``text.replace(old, new, count)``."""
    _bound(budget, len(text) + (text.count(old) if old else len(text) + 1) * len(new), True)
    return text.replace(old, new, count)


STRING_METHODS: dict[str, Callable[..., Any]] = {"format": format_text, "join": join, "replace": replace}
"""Methods of strings that take the budget."""

PLAIN_STRING_METHODS = (
    *("capitalize", "count", "endswith", "find", "isdigit", "lower", "lstrip", "partition", "removeprefix"),
    *("removesuffix", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "title", "upper"),
)
"""Methods of strings whose result is not larger than the string."""

LIST_METHODS = ("append", "copy", "count", "extend", "index", "insert", "pop", "remove", "reverse")
DICT_METHODS = ("copy", "get", "items", "keys", "pop", "setdefault", "update", "values", "merge")
METHODS = {str: (*STRING_METHODS, *PLAIN_STRING_METHODS), list: LIST_METHODS, dict: DICT_METHODS, tuple: ("index",)}
"""Methods that may be called, by type."""


def make_range(budget: Budget, *bounds: int) -> list[int]:
    """Return ``list(range(*bounds))``."""
    numbers = range(*bounds)
    budget.charge(_length(numbers))
    return list(numbers)


def make_list(budget: Budget, values: Any = ()) -> MarkedList:
    """Return a list."""
    return MarkedList(values)


def plain_only(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that first charges for all values inside its arguments."""

    def checked(budget: Budget, *values: Any, **named: Any) -> Any:
        budget.weigh([*values, *named.values()])
        return function(*values, **named)

    return checked


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "range": make_range,
    "list": make_list,
    "tuple": lambda budget, values=(): tuple(values),
    **{function.__name__: plain_only(function) for function in (len, int, float, str, bool, abs, any, all)},
    **{function.__name__: plain_only(function) for function in (min, max, sum, divmod)},
    "round": plain_only(lambda number, digits=None: round(number, digits and max(-50, min(digits, 50)))),
    "sorted": plain_only(lambda values, reverse=False: MarkedList(sorted(values, reverse=reverse))),
    "reversed": plain_only(lambda values: MarkedList(values[::-1])),
    "enumerate": plain_only(lambda values, start=0: list(enumerate(values, start))),
    "zip": plain_only(lambda *values: list(zip(*values))),
}
"""Functions that may be called, besides ``dict``; each takes the budget."""


def _length(numbers: range) -> int:
    """Return the length of a range, also of one that ``len`` cannot count."""
    return max(0, (numbers.stop - numbers.start + numbers.step - (1 if numbers.step > 0 else -1)) // numbers.step)


def _longest(values: Any) -> int:
    """Return the length of the longest of some values, already weighed, as text."""
    values = values.values() if isinstance(values, dict) else values if isinstance(values, (list, tuple)) else [values]
    return max((len(str(value)) for value in values), default=0)


def _bound(budget: Budget, size: int, is_text: bool) -> None:
    if is_text and size > MOST_CHARACTERS:
        raise Refusal(f"makes a string of more than {MOST_CHARACTERS:,} characters")
    budget.charge(size // 50 if is_text else size)
