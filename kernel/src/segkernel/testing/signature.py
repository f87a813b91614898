"""Checks of constructors: the signature is the schema of a component's config."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import pkgutil
import sys
from typing import Any, get_args, get_origin
from unittest import mock

from segkernel.catalog import GROUPS
from segkernel.signature import UNPACK, Unresolved, annotations_of, signature
from segkernel.testing.core import Subject, check, require

COMPONENTS = (
    *("backbones", "necks", "heads", "segmentors", "losses", "layers", "parts", "datasets", "samplers"),
    *("transforms", "metrics", "engines", "hooks", "exporters", "weight_formats", "optimizers", "schedules"),
)

LOADERS = ("torch.load", "torch.hub.load_state_dict_from_url", "urllib.request.urlopen")
SEEDERS = ("torch.manual_seed", "numpy.random.seed", "random.seed")

_ROOTS = ("builtins", "typing", "typing_extensions", "torch.nn.modules.module")  # constructors that take nothing


@check(*COMPONENTS, name="annotated", example=False)
def annotated(subject: Subject) -> None:
    """Every argument has an annotation that can be resolved."""
    bare = [p.name for p in _parameters(subject.target) if p.annotation is p.empty]
    require(not bare, f"arguments without annotation: {', '.join(bare)}")
    for name, parameter in signature(subject.target).items():
        require(not isinstance(parameter.annotation, Unresolved), f"annotation of {name!r}: {parameter.annotation}")


@check(*COMPONENTS, name="no-open-arguments", example=False)
def no_open_arguments(subject: Subject) -> None:
    """No ``*args``, and ``**kwargs`` only as ``Unpack[SomeTypedDict]``."""
    for parameter in _parameters(subject.target):
        require(parameter.kind is not parameter.VAR_POSITIONAL, f"open *{parameter.name}: name each argument")
    left_open = signature(subject.target).open
    require(not left_open, f"open {left_open}: annotate it with Unpack[a TypedDict of the forwarded arguments]")


@check(*COMPONENTS, name="forwarded-arguments", example=False)
def forwarded_arguments(subject: Subject) -> None:
    """The TypedDict of ``**kwargs`` and the constructor that receives them agree."""
    forwarded = _forwarded(subject.target)
    if forwarded is None:
        return
    keys, receiver = signature(forwarded), _receiver(subject.target)
    theirs = signature(receiver)
    for name, parameter in keys.items():
        annotation = parameter.annotation
        require(name in theirs or name in theirs.fixed, f"{forwarded.__name__} has {name!r}, {receiver.__name__} not")
        expected = theirs[name].annotation if name in theirs else annotation
        message = f"{name!r} is {annotation} in {forwarded.__name__}, {expected} in {receiver.__name__}"
        require(annotation == expected, message)
    own = {parameter.name for parameter in _parameters(subject.target)} | set(signature(subject.target).fixed)
    lost = sorted(set(theirs) - set(keys) - own)
    message = f"{receiver.__name__} takes {', '.join(lost)}; missing in {forwarded.__name__} and fixed_arguments"
    require(not lost, message)


@check(*COMPONENTS, name="plain-defaults", example=False)
def plain_defaults(subject: Subject) -> None:
    """Every default can be written in YAML."""
    for parameter in _parameters(subject.target):
        if parameter.default is not parameter.empty:
            require(_is_plain(parameter.default), f"default of {parameter.name!r} is not YAML: {parameter.default!r}")


@check(*COMPONENTS, name="documented", example=False)
def documented(subject: Subject) -> None:
    """The class or function has its own docstring."""
    require((subject.target.__doc__ or "").strip(), "no docstring")


@check(*COMPONENTS[:-2], name="constructs")
def constructs(subject: Subject) -> None:
    """It can be built from its example, without printing, setting a seed, or reading weights itself."""
    annotation = getattr(signature(subject.target).get("pretrained"), "annotation", None)
    more = {"pretrained": "no_such_file.pth"} if "str" in str(annotation) else {}
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.ExitStack() as stack:
        watched = LOADERS + SEEDERS if "torch" in sys.modules else ()
        loaders = {name: stack.enter_context(mock.patch(name, side_effect=OSError("no weights"))) for name in watched}
        if watched:
            stack.enter_context(mock.patch("segkernel.weights.load_pretrained"))  # this may load, nothing else
        with contextlib.suppress(OSError):
            require(subject.build(**more) is not None, "nothing was built")
    called = [name for name, loader in loaders.items() if loader.called]
    hint = "the run sets the seed" if set(called) & set(SEEDERS) else "add 'pretrained', which `load_pretrained` loads"
    require(not called, f"its constructor calls {', '.join(called)}; {hint}")
    require(not printed.getvalue(), f"its constructor prints {printed.getvalue().strip()[:60]!r}; use logging")


@check(*(group for group in COMPONENTS[:-2] if GROUPS[group].startswith("segkernel.")), name="interface")
def interface(subject: Subject) -> None:
    """The object derives from the base class of its kind, or has the members of its protocol."""
    contract: Any = pkgutil.resolve_name(GROUPS[subject.group])
    require(isinstance(subject.build(), contract), f"it does not build a {contract.__module__}.{contract.__name__}")


@check(*COMPONENTS[:-2], name="own-defaults")
def own_defaults(subject: Subject) -> None:
    """Building does not modify list, dict or set defaults of arguments, nor keep an empty one as an attribute."""
    mutable = {p.name: p.default for p in _parameters(subject.target) if isinstance(p.default, (list, dict, set))}
    before = copy.deepcopy(mutable)
    values = [id(value) for value in getattr(subject.build(), "__dict__", {}).values()]
    changed = [name for name, default in mutable.items() if default != before[name]]
    kept = [name for name, default in mutable.items() if not default and id(default) in values]
    require(not changed, f"building it modifies the default of {', '.join(changed)}, which all instances share")
    require(not kept, f"it keeps the default of {', '.join(kept)}, empty and shared by all instances: copy it")


def _owner(target: Any) -> Any:
    """Return the class whose constructor is used, or a function itself."""
    if not inspect.isclass(target):
        return target
    return next(base for base in target.__mro__ if "__init__" in vars(base))


def _parameters(target: Any) -> list[inspect.Parameter]:
    owner = _owner(target)
    if not inspect.isclass(owner):
        return list(inspect.signature(owner).parameters.values())
    if owner.__module__ in _ROOTS:
        return []
    return list(inspect.signature(vars(owner)["__init__"]).parameters.values())[1:]


def _forwarded(target: Any) -> Any:
    """Return the TypedDict of ``**kwargs: Unpack[TypedDict]``, or None."""
    owner = _owner(target)
    hints = annotations_of(owner.__init__ if inspect.isclass(owner) else owner)
    for parameter in _parameters(target):
        annotation = hints.get(parameter.name)
        if parameter.kind is parameter.VAR_KEYWORD and get_origin(annotation) in UNPACK:
            return get_args(annotation)[0]
    return None


def _receiver(target: Any) -> Any:
    """Return what receives the forwarded arguments: the next class with a constructor, or a function's return type."""
    owner = _owner(target)
    if not inspect.isclass(owner):
        return annotations_of(owner)["return"]
    chain = target.__mro__
    return next(base for base in chain[chain.index(owner) + 1 :] if "__init__" in vars(base))


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(entry) for entry in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(entry) for key, entry in value.items())
    return value is None or isinstance(value, (bool, int, float, str))
