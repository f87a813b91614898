"""`factory`: what every function that returns a variant of a backbone does besides.

@factory
def resnet50(**kwargs: Unpack[PlainResNetArguments]) -> ResNet: ...
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from torch import nn

from segkernel import weights
from segkernel.signature import signature

P = ParamSpec("P")
M = TypeVar("M", bound=nn.Module)


def factory(function: Callable[P, M]) -> Callable[P, M]:
    """Decorate a function that returns a backbone: it also loads the weights that ``pretrained`` names.

    `inspect.signature` of it shows every argument, also those that ``**kwargs`` forwards.
    """

    @functools.wraps(function)
    def create(*args: P.args, **kwargs: P.kwargs) -> M:
        return weights.load_pretrained(function(*args, **kwargs))

    shown = inspect.signature(function)
    own = [each for each in shown.parameters.values() if each.kind is not each.VAR_KEYWORD]
    forwarded = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=each.annotation)
        for name, each in signature(function).items()
        if name not in shown.parameters
    ]
    create.__signature__ = shown.replace(parameters=[*own, *forwarded])  # type: ignore[attr-defined]
    return create
