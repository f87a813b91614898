"""Specs to objects: the constructor's signature is the schema.

    head = build("heads", {"type": "PSPHead", "in_channels": 2048, "channels": 512, "num_classes": 19})

A parameter annotated with a component type (``Loss``, ``Loss | None``, ``Sequence[Loss]``, ``dict[str, Loss]`` ...)
gets its nested spec built first and injected; one annotated `Spec` gets it checked, for the class to call.
Everything is checked before anything is constructed, and all problems are reported together. Objects pass through.
"""

from __future__ import annotations

import enum
import numbers
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from types import FunctionType, MethodType, NoneType
from typing import Any, Literal, get_args, get_origin

from typing_extensions import is_typeddict

from segkernel import signature as signatures
from segkernel.annotations import breaks
from segkernel.catalog import GROUPS, USUAL, Catalog
from segkernel.config.marks import place_of, to_builtin
from segkernel.errors import ComponentError, ConfigError, Problem, SegKernelError, UsageError, did_you_mean, suggest
from segkernel.interfaces.spec import Spec

_Target = Callable[..., Any]
_NONE: Mapping[str, Any] = {}


def build(
    kind: str | _Target,
    spec: Any,
    /,
    *,
    path: str = "",
    catalog: Catalog | None = None,
    ambient: Mapping[str, Any] = _NONE,
    load_pretrained: bool = True,
    **defaults: Any,
) -> Any:
    """Return the object that ``spec`` describes.

    Args:
        kind: The group of a component, ``heads``: ``spec`` is ``{type: Name, argument: value, ...}``, or an object,
            which is returned unchanged. Or any annotated class or function: ``spec`` holds its arguments.
        spec: A mapping.
        path: The spec's key in its config, for messages.
        catalog: Where names are looked up; the installed plugins when None.
        ambient: Default arguments of all constructors, nested ones included, that have a parameter of this name. A
            class whose attribute ``tasks`` lacks the ambient ``task`` is refused.
        load_pretrained: Whether to load the weights that modules name in ``pretrained``; False turns off these
            arguments, when a checkpoint provides all weights.
        defaults: Arguments used where the spec does not give them; passed on unchecked.

    Raises:
        ConfigError: With every problem found, before anything is constructed; or a constructor raised.
        CheckpointError: When weights that a module names in ``pretrained`` cannot be loaded.
    """
    reader = _Reader(catalog or Catalog.current(), ambient, load_pretrained)
    node = reader.read(kind, spec, path, defaults)
    if reader.problems:
        raise ConfigError(reader.problems) from next((p.error for p in reader.problems if p.error), None)
    with reader.catalog.active():  # for the layers that constructors look up themselves
        built = _make(node)
        if load_pretrained and isinstance(node, _Call) and hasattr(built, "named_modules"):
            # Looked up by name: that module imports this one, and torch.
            pkgutil.resolve_name("segkernel.weights:load_pretrained")(built)
        return built


def check(kind: str | _Target, spec: Any, /, path: str = "", **options: Any) -> list[Problem]:
    """Return the problems that `build` would raise for the same arguments; imports components, constructs nothing."""
    reader = _Reader(options.pop("catalog", None) or Catalog.current(), options.pop("ambient", _NONE))
    reader.read(kind, spec, path, options)
    return reader.problems


# ---------------------------------------------------------------- reading: values against annotations


@dataclass(frozen=True)
class _At:
    """Where a value was written: its dotted path, and the file, line and column."""

    path: str = ""
    place: str = ""

    def child(self, container: Any, key: Any) -> _At:
        step = f".{key}" if isinstance(container, Mapping) else f"[{key}]"
        return _At(f"{self.path}{step}".removeprefix("."), place_of(container, key) or self.place)


@dataclass(frozen=True)
class _Call:
    """An object to construct once everything is checked; a `Spec` when it has no ``defaults``."""

    target: _Target
    label: str
    at: _At
    arguments: dict[str, Any]
    defaults: Mapping[str, Any] | None


@dataclass
class _Reader:
    """Reads values against annotations: returns what to construct, and collects the problems."""

    catalog: Catalog
    ambient: Mapping[str, Any]
    pretrained: bool = True
    problems: list[Problem] = field(default_factory=list)

    def read(self, kind: str | _Target, spec: Any, path: str, defaults: Mapping[str, Any]) -> Any:
        """Read a top-level spec."""
        at = _At(path, place_of(spec))
        if isinstance(kind, str):
            return self.component(kind, None, spec, at, defaults)
        return self.call(kind, _name_of(kind), spec, at, defaults)

    def problem(self, at: _At, message: str, hint: str = "") -> None:
        self.problems.append(Problem(message, at.path, at.place, hint))

    def component(
        self, group: str, expected: type | None, spec: Any, at: _At, defaults: Mapping[str, Any] | None = _NONE
    ) -> Any:
        """Read a spec ``{type: Name, ...}`` of a group; a built object is returned unchanged."""
        if not isinstance(spec, (Mapping, list, tuple, set, str, bytes, numbers.Number, NoneType)):
            return spec
        if not isinstance(spec, Mapping) or ("type" not in spec and group not in USUAL):
            return self._no_type(group, spec, at)
        target = spec["type"] if "type" in spec else self.catalog.usual(group)
        label, here = _name_of(target), at.child(spec, "type")
        if isinstance(target, str):
            try:
                row = self.catalog.find(group, target, here.path)
                target, label = self.catalog.load_row(row), row.qualified
            except ComponentError as error:
                return self.problems.append(_problem_of(error, here))
        if not isinstance(target, (type, FunctionType, MethodType)):
            return self.problem(here, f"'type' must name a class or function, a {group} component, got {_show(target)}")
        expected = expected or _contract(group)
        if expected is not None and isinstance(target, type) and not issubclass(target, expected):
            return self.problem(here, f"{label} is not a {expected.__name__}")
        return self.call(target, label, spec, at, defaults, typed=True)

    def call(
        self,
        target: _Target,
        label: str,
        given: Any,
        at: _At,
        defaults: Mapping[str, Any] | None = _NONE,
        typed: bool = False,
    ) -> Any:
        """Read arguments against the signature of ``target``; without ``defaults``, some may be given later.

        ``typed`` tells that ``given`` names its class under ``type``, which is then not an argument, even of a record.
        """
        if not isinstance(given, Mapping):
            return self.problem(at, f"expected a mapping of the arguments of {label}, got {_show(given)}")
        known, made = signatures.signature(target), {}
        outer, self.ambient = self.ambient, {name: given.get(name, value) for name, value in self.ambient.items()}
        self._refuse_ambient(target, label, given, at)
        for key, value in given.items():
            if key in known:
                is_default = value is None and known[key].default is None
                made[key] = None if is_default else self.value(known[key].annotation, value, at.child(given, key))
            elif key != "type" or (signatures.is_record(target) and not typed):
                self._unknown(target, label, given, at, key)
        for name in [name for name in outer if name in known and name not in given]:
            made[name] = self.value(known[name].annotation, outer[name], at)
        self.ambient = outer
        if "pretrained" in known and not self.pretrained:
            made["pretrained"] = False if isinstance(known["pretrained"].default, bool) else None
        for name, parameter in known.items():
            if parameter.required and defaults is not None and name not in {*given, *defaults, *outer}:
                kind = signatures.describe(parameter.annotation)
                self.problem(at.child(given, name), f"missing argument of {label}: {kind}")
        return _Call(target, label, at, made, defaults)

    def _refuse_ambient(self, target: _Target, label: str, given: Mapping[str, Any], at: _At) -> None:
        """Report a class that does not support the ambient task."""
        task, tasks = self.ambient.get("task"), getattr(target, "tasks", None)
        if task is not None and tasks is not None and task not in tasks:
            self.problem(at.child(given, "type"), f"{label} does not support task {task}, only {', '.join(tasks)}")

    def value(self, annotation: Any, value: Any, at: _At) -> Any:
        """Read any value against any annotation."""
        kind, constraints = signatures.unwrap(annotation)
        # Data sets read folders; those of an untrusted config are only built by commands that evaluate on them.
        reads = at.path.startswith(("data.val.", "data.test."))
        if isinstance(value, str) and value and signatures.is_file(kind, constraints) and not reads:
            self.catalog.refuse_untrusted(f"the file {value}", at.path)
        before = len(self.problems)
        made = self._typed(kind, annotation, value, at)
        if len(self.problems) == before and breaks(made, constraints):
            self._mismatch(annotation, value, at)
        return made

    def _typed(self, kind: Any, annotation: Any, value: Any, at: _At) -> Any:
        """Read any value against ``kind``, the type of ``annotation``."""
        cls, arguments = get_origin(kind) or kind, get_args(kind)
        if isinstance(kind, signatures.Unresolved):
            return self.problem(at, f"its annotation {kind.text!r} cannot be resolved: {kind.reason}", _UNRESOLVED)
        if cls in signatures.UNIONS:
            return self._union(kind, arguments, value, at)
        if cls is Spec or signatures.group_of(kind):
            inner, defaults = (signatures.bare(arguments[0]), None) if arguments else (kind, _NONE)
            return self.component(signatures.group_of(inner) or "parts", _enforced(inner), value, at, defaults)
        if isinstance(value, Mapping) and signatures.is_record(cls):
            return self.call(cls, cls.__name__, value, at)
        if isinstance(value, Mapping) and cls in signatures.MAPPINGS:
            return self._mapping(arguments, value, at)
        if isinstance(value, (list, tuple)) and cls in signatures.LISTS:
            return self._list(cls, kind, arguments, value, at)
        if isinstance(cls, type) and issubclass(cls, enum.Enum):
            members = [member for name, member in cls.__members__.items() if value in (name, member.value, member)]
            return members[0] if members else self._mismatch(annotation, value, at)
        if isinstance(value, str) and isinstance(cls, type) and issubclass(cls, PurePath):
            return Path(value)
        if _fits(cls, arguments, value):
            return value if isinstance(cls, type) and cls not in (Any, object) else to_builtin(value)
        return self._mismatch(annotation, value, at)

    def _union(self, kind: Any, arms: tuple[Any, ...], value: Any, at: _At) -> Any:
        """Read the first arm that fits; if none does, report the problems of the one that was read deepest."""
        meant: list[Problem] = []
        for arm in arms:
            attempt = _Reader(self.catalog, self.ambient, self.pretrained)
            node = attempt.value(arm, value, at)
            if not attempt.problems:
                return node
            meant = max(meant, attempt.problems, key=lambda problems: max((len(p.path) for p in problems), default=0))
        if all(problem.path == at.path for problem in meant):
            return self._mismatch(kind, value, at)
        self.problems += meant
        return None

    def _list(self, cls: Any, kind: Any, arguments: tuple[Any, ...], value: Sequence[Any], at: _At) -> Any:
        fixed = cls is tuple and len(arguments) > 0 and arguments[-1] is not Ellipsis
        if fixed and len(arguments) != len(value):
            return self._mismatch(kind, value, at)
        entries = arguments if fixed else [*arguments[:1], Any][:1] * len(value)
        made = [self.value(each, item, at.child(value, i)) for i, (each, item) in enumerate(zip(entries, value))]
        return cls(made) if cls in (tuple, set, frozenset) else made

    def _mapping(self, arguments: tuple[Any, ...], value: Mapping[Any, Any], at: _At) -> dict[Any, Any]:
        kind, item_kind = arguments or (Any, Any)
        # A config that was stored as JSON, as in a checkpoint, has text for numbers.
        read = {key: (int(key) if kind is int and str(key).isdecimal() else key, at.child(value, key)) for key in value}
        return {self.value(kind, name, at): self.value(item_kind, value[key], at) for key, (name, at) in read.items()}

    def _no_type(self, group: str, spec: Any, at: _At) -> None:
        if isinstance(spec, Mapping):
            near = did_you_mean("type", spec)
            hint = f"did you mean 'type' instead of {near[0]!r}?" if near else f"write type: NAME, one of the {group}"
            return self.problem(at.child(spec, "type"), f"missing: which {group} component?", hint)
        hint = f"write {{type: {spec}}}" if isinstance(spec, str) else ""
        return self.problem(at, f"expected a {group} component, got {_show(spec)}", hint)

    def _unknown(self, target: Any, label: str, given: Mapping[str, Any], at: _At, key: Any) -> None:
        known, here = signatures.signature(target), at.child(given, key)
        origin = place_of(given, "type") if "type" in given else ""
        is_elsewhere = origin and origin.rsplit(":", 2)[0] != here.place.rsplit(":", 2)[0]
        where = f"({at.path.rpartition('.')[2]}.type set in {origin})".replace("(.", "(") if is_elsewhere else ""
        if key in known.fixed:
            value = "" if known.fixed[key] is signatures.EMPTY else f" to {_show(known.fixed[key])}"
            return self.problem(here, f"argument is fixed by {label}{value} and cannot be set", where)
        if known.open:
            hint = f"annotate {known.open} of its constructor with Unpack[a TypedDict]"
            return self.problem(here, f"{label} does not declare whether it takes this argument", hint)
        hint = self.catalog.moved(key) or suggest(key, known, "it takes ") or "it takes no arguments"
        return self.problem(here, f"unknown argument of {label}", "   ".join(filter(None, [hint, where])))

    def _mismatch(self, kind: Any, value: Any, at: _At) -> None:
        hint = suggest(value, signatures.choices_of(kind), "") if isinstance(value, str) else ""
        return self.problem(at, f"expected {signatures.describe(kind)}, got {_show(value)}", hint)


# ---------------------------------------------------------------- making: constructors, leaves first


def _make(node: Any) -> Any:
    """Construct the result of a `_Reader`; containers are traversed, other values are returned unchanged."""
    if type(node) in (list, tuple):
        return type(node)(_make(entry) for entry in node)
    if type(node) is dict:
        return {key: _make(entry) for key, entry in node.items()}
    if not isinstance(node, _Call):
        return node
    arguments = {name: _make(entry) for name, entry in node.arguments.items()}
    if node.defaults is None:
        return Spec(node.target, **arguments)
    try:
        return node.target(**{**node.defaults, **arguments})
    except ConfigError as error:
        at = node.at
        located = [replace(p, path=f"{at.path}.{p.path}".strip("."), place=p.place or at.place) for p in error.problems]
        raise ConfigError(located) from error
    except (*_REFUSALS, UsageError, ComponentError) as error:
        raise ConfigError(_problem_of(error, node.at, node.label)) from error


_REFUSALS = (ValueError, TypeError, LookupError, AssertionError, NotImplementedError, ArithmeticError)
"""Exceptions by which constructors reject their arguments."""


def _problem_of(error: Exception, at: _At, label: str = "") -> Problem:
    name = "" if isinstance(error, (SegKernelError, ValueError)) else f"{type(error).__name__}: "
    first, *rest = f"{name}{error}".splitlines() or [type(error).__name__]
    message = f"{label} cannot be built: {first}" if label else first
    return Problem(message, at.path, at.place, "\n".join(line.strip() for line in rest), error)


# ---------------------------------------------------------------- annotations

_UNRESOLVED = "the component's author must import that name when the module is imported, not under TYPE_CHECKING"
_SCALARS: dict[Any, type] = {bool: bool, int: numbers.Integral, float: numbers.Real, str: str, NoneType: NoneType}


def _fits(cls: Any, arguments: tuple[Any, ...], value: Any) -> bool:
    """Whether a plain value is one that the annotation allows."""
    if cls is Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    if cls in _SCALARS:
        # Only nan differs from itself: no argument allows it, as it would spread silently.
        return isinstance(value, _SCALARS[cls]) and isinstance(value, bool) == (cls is bool) and value == value
    if not isinstance(cls, type) or cls in (Any, object) or getattr(cls, "_is_protocol", False):
        return True
    # A range or an array counts as a list, a string does not.
    is_text = cls in signatures.LISTS and isinstance(value, (str, bytes, Mapping))
    return not (is_typeddict(cls) or is_text) and isinstance(value, cls)


def _contract(group: str) -> type | None:
    contract = GROUPS.get(group, "")
    return _enforced(pkgutil.resolve_name(contract)) if contract.startswith("segkernel.") else None


def _enforced(expected: Any) -> type | None:
    """Return the class if components must be subclasses of it; None for protocols and torch's own classes."""
    return None if getattr(expected, "_is_protocol", False) or expected.__module__.startswith("torch") else expected


# ---------------------------------------------------------------- text for messages


def _show(value: Any) -> str:
    text = repr(value)
    text = text if len(text) <= 60 else f"{text[:57]}..."
    kind = next((kind for kind in (dict, list) if isinstance(value, kind)), type(value))  # without marks
    return text if value is None else f"{text} ({kind.__name__})"


def _name_of(target: Any) -> str:
    return getattr(target, "__name__", None) or str(target)
