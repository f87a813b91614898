"""The arguments of a constructor, read from its annotations: the schema of a component's config.

    signature(PSPHead)["channels"]      # Parameter(name="channels", annotation=int, owner=DecodeHead, ...)

Arguments that ``**kwargs: Unpack[SomeTypedDict]`` forwards take their default from the base class's ``__init__``;
those that a class lists in ``fixed_arguments`` are not accepted by it.
"""

from __future__ import annotations

import enum
import functools
import inspect
import sys
import types
import typing
from collections import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from inspect import get_annotations
from pathlib import PurePath
from typing import Annotated, Any, Literal, get_args, get_origin

import typing_extensions
from typing_extensions import NotRequired, ReadOnly, Required, TypeAliasType, Unpack, is_typeddict

from segkernel.annotations import FILE, OF_OPTIMIZERS, words
from segkernel.catalog import GROUPS
from segkernel.interfaces.spec import Spec

EMPTY = inspect.Parameter.empty
UNIONS = (typing.Union, types.UnionType)
UNPACK = (Unpack, getattr(typing, "Unpack", Unpack))
QUALIFIERS = (Required, NotRequired, ReadOnly)


@dataclass(frozen=True)
class Parameter:
    """One argument.

    Args:
        name: The keyword.
        annotation: Resolved; ``Any`` when there is none; `Unresolved` when it cannot be.
        default: `EMPTY` where there is none.
        required: Whether it must be given.
        owner: The class or function whose signature has it.
    """

    name: str
    annotation: Any
    default: Any = EMPTY
    required: bool = False
    owner: Any = None


@dataclass(frozen=True)
class Unresolved:
    """An annotation that cannot be evaluated, and why."""

    text: str
    reason: str


class Signature(dict[str, Parameter]):
    """The arguments of a class or function, by name: in the order of the constructor, forwarded ones last.

    Args:
        parameters: By name.
        fixed: Arguments of a base class that the class sets itself, with their values where known.
        open: A ``**kwargs`` without declared arguments; empty when there is none.
    """

    def __init__(self, parameters: Mapping[str, Parameter], fixed: Mapping[str, Any] | None = None, open: str = ""):
        super().__init__(parameters)
        self.fixed, self.open = dict(fixed or {}), open


@functools.cache
def signature(target: Callable[..., Any]) -> Signature:
    """Read the arguments of ``target``, a class, a dataclass or a function; forwarded ones included."""
    if is_typeddict(target):
        return _of_typed_dict(target)
    return _of_class(target.__mro__) if isinstance(target, type) else _of_function(target, target, _of_returned)


def annotations_of(obj: Any) -> dict[str, Any]:
    """Return the resolved annotations of a function, class or TypedDict; `Unresolved` for those that cannot be."""
    try:
        return typing_extensions.get_type_hints(obj, include_extras=True)
    except Exception:  # resolve one by one: a name under TYPE_CHECKING must not hide the others
        owners = reversed(obj.__mro__) if isinstance(obj, type) else [obj]
        return {name: _resolve(text, owner) for owner in owners for name, text in get_annotations(owner).items()}


def _of_class(chain: Sequence[type]) -> Signature:
    """Read the first constructor in ``chain``, the rest of a method resolution order."""
    index = next((i for i, base in enumerate(chain) if _has_constructor(base)), None)
    if index is None:
        return Signature({})
    owner, rest = chain[index], chain[index + 1 :]
    found = _of_function(vars(owner)["__init__"], owner, lambda hints: _of_class(rest), skip=1)
    fixed = {name: value for base in reversed(chain[: index + 1]) for name, value in _fixed(base).items()}
    kept = {name: parameter for name, parameter in found.items() if name not in fixed}
    return Signature(kept, {**found.fixed, **fixed}, found.open)


def _has_constructor(cls: type) -> bool:
    """Whether the class has its own ``__init__``; those of ``object``, Protocols and ``nn.Module`` take nothing."""
    home = getattr(vars(cls).get("__init__"), "__module__", None)
    # The class's own module is checked as well: torch's exporters may wrap the constructor of nn.Module.
    return home not in (None, "typing", "typing_extensions") and cls.__module__ != "torch.nn.modules.module"


def _fixed(cls: type) -> dict[str, Any]:
    declared = vars(cls).get("fixed_arguments", ())
    return dict(declared) if isinstance(declared, Mapping) else dict.fromkeys(declared, EMPTY)


def _of_function(function: Any, owner: Any, base: Callable[[dict[str, Any]], Signature], skip: int = 0) -> Signature:
    """Read a function; ``base`` returns the signature of what its ``**kwargs`` are passed to."""
    plain = inspect.unwrap(function)
    # Where ``@dataclass`` wrote the constructor, hints are read from the class, for fields of base classes.
    hints = annotations_of(owner if is_dataclass(owner) and plain.__code__.co_filename == "<string>" else plain)
    parameters, forwarded = {}, Signature({})
    for entry in list(inspect.signature(plain).parameters.values())[skip:]:
        annotation = hints.get(entry.name, Any)
        if owner.__module__.startswith("torch.optim.") and isinstance(entry.default, tuple) == (entry.name == "betas"):
            annotation = OF_OPTIMIZERS.get(entry.name, annotation)
        if entry.kind is entry.VAR_KEYWORD:
            forwarded = _forwarded(entry.name, annotation, owner, base(hints))
        elif entry.kind is not entry.VAR_POSITIONAL:
            parameters[entry.name] = Parameter(entry.name, annotation, entry.default, entry.default is EMPTY, owner)
    more = {name: parameter for name, parameter in forwarded.items() if name not in parameters}
    fixed = {name: value for name, value in forwarded.fixed.items() if name not in parameters}
    return Signature({**parameters, **more}, fixed, forwarded.open)


def _forwarded(name: str, annotation: Any, owner: Any, base: Signature) -> Signature:
    if get_origin(annotation) not in UNPACK:
        reason = f": {annotation.text} ({annotation.reason})" if isinstance(annotation, Unresolved) else ""
        return Signature({}, base.fixed, f"**{name}{reason}")
    parameters = {
        key: replace(base[key], annotation=parameter.annotation) if key in base else replace(parameter, owner=owner)
        for key, parameter in _of_typed_dict(get_args(annotation)[0]).items()
        if key not in base.fixed
    }
    return Signature(parameters, base.fixed, base.open)


def _of_typed_dict(cls: Any) -> Signature:
    parameters = {}
    for key, annotation in annotations_of(cls).items():
        required = key in cls.__required_keys__
        while get_origin(annotation) in QUALIFIERS:
            required = required if get_origin(annotation) is ReadOnly else get_origin(annotation) is Required
            annotation = get_args(annotation)[0]
        parameters[key] = Parameter(key, annotation, EMPTY, required, cls)
    return Signature(parameters)


def _of_returned(hints: Mapping[str, Any]) -> Signature:
    returned = hints.get("return")
    return signature(returned) if isinstance(returned, type) else Signature({})


def _resolve(annotation: Any, owner: Any) -> Any:
    """Evaluate one annotation of a function or class in the namespace of its module."""
    scope = getattr(owner, "__globals__", None) or getattr(sys.modules.get(owner.__module__), "__dict__", {})
    holder = types.FunctionType((lambda: None).__code__, scope)
    holder.__annotations__ = {"it": annotation}
    try:
        return typing_extensions.get_type_hints(holder, include_extras=True)["it"]
    except Exception as error:
        return Unresolved(str(getattr(annotation, "__forward_arg__", annotation)), str(error))


# ---------------------------------------------------------------- the meaning of annotations

LISTS = (list, tuple, set, frozenset, abc.Sequence, abc.MutableSequence, abc.Iterable, abc.Collection)
MAPPINGS = (dict, abc.Mapping, abc.MutableMapping)
_CONTRACT_GROUPS = {contract: group for group, contract in GROUPS.items() if contract}


def group_of(annotation: Any) -> str | None:
    """Return the component group that an annotation stands for, or None."""
    if not isinstance(annotation, type):
        return None
    declared = getattr(annotation, "component_group", None)
    if isinstance(declared, str):
        return declared
    names = (f"{cls.__module__}:{cls.__qualname__}" for cls in annotation.__mro__)
    return next((_CONTRACT_GROUPS[name] for name in names if name in _CONTRACT_GROUPS), None)


def is_record(target: Any) -> bool:
    """Whether a mapping without ``type`` configures it: a dataclass or TypedDict."""
    return is_typeddict(target) or is_dataclass(target)


def bare(annotation: Any) -> Any:
    """Return an annotation's type, without Annotated, NewType and aliases."""
    return unwrap(annotation)[0]


def unwrap(annotation: Any) -> tuple[Any, list[Any]]:
    """Return an annotation's type, as `bare` does, and the constraints that Annotated adds."""
    constraints: list[Any] = []
    while True:
        if get_origin(annotation) is Annotated:
            annotation, *more = get_args(annotation)
            constraints += more
        elif isinstance(annotation, TypeAliasType):
            annotation = annotation.__value__
        elif hasattr(annotation, "__supertype__"):
            annotation = annotation.__supertype__
        else:
            return annotation, constraints


def is_file(kind: Any, constraints: Sequence[Any]) -> bool:
    """Whether a string for a type with these constraints is the path of a file or folder."""
    arms = get_args(kind) if get_origin(kind) in UNIONS else (kind,)
    return FILE in constraints or any(isinstance(arm, type) and issubclass(arm, PurePath) for arm in arms)


def describe(annotation: Any) -> str:
    """Describe the values that an annotation allows, for error messages."""
    kind, constraints = unwrap(annotation)
    if limits := words(constraints):
        return f"{describe(kind)} ({limits})"
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in UNIONS:
        return " or ".join(dict.fromkeys(describe(arm) for arm in arguments))
    if origin is Literal or (isinstance(kind, type) and issubclass(kind, enum.Enum)):
        return " or ".join(map(repr, choices_of(kind)))
    if kind in (None, types.NoneType):
        return "None"
    if origin is Spec:
        return describe(arguments[0])
    if group_of(kind):
        return f"a {group_of(kind)} component"
    if origin is tuple and arguments[-1:] != (Ellipsis,):
        return f"a list [{', '.join(map(describe, arguments))}]"
    if (origin or kind) in LISTS:
        return f"a list of {group_of(arguments[0]) or describe(arguments[0])}" if arguments else "a list"
    if (origin or kind) in MAPPINGS or is_record(kind):
        return "a mapping"
    return getattr(kind, "__name__", None) or str(kind)


def choices_of(annotation: Any) -> list[Any]:
    """Return the values of a Literal, the names of an Enum, those of every arm of a union."""
    kind = bare(annotation)
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return list(kind.__members__)
    return [choice for arm in (get_args(kind) if get_origin(kind) in UNIONS else ()) for choice in choices_of(arm)]
