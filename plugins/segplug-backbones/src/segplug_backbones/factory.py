"""`factory`: what every function that returns a variant of a backbone does besides.

@factory
def resnet50(**kwargs: Unpack[PlainResNetArguments]) -> ResNet: ...
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from segkernel.signature import signature

F = TypeVar("F", bound=Callable[..., Any])


def factory(function: F) -> F:
    """Decorate a function that returns a backbone: `inspect.signature` of it also shows what ``**kwargs`` forwards."""
    shown = inspect.signature(function)
    own = [each for each in shown.parameters.values() if each.kind is not each.VAR_KEYWORD]
    forwarded = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=each.annotation)
        for name, each in signature(function).items()
        if name not in shown.parameters
    ]
    function.__signature__ = shown.replace(parameters=[*own, *forwarded])  # type: ignore[attr-defined]
    return function
