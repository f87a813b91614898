"""`factory`: what every function that returns a variant of a backbone does besides.

@factory
def resnet50(**kwargs: Unpack[PlainResNetArguments]) -> ResNet: ...
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from torch import nn

from segkernel import weights
from segkernel.errors import UsageError
from segkernel.signature import signature

HINT = """name the weights: a file, an address, or a known name such as 'torchvision://resnet50'; None loads none"""
P = ParamSpec("P")
M = TypeVar("M", bound=nn.Module)


def factory(function: Callable[P, M]) -> Callable[P, M]:
    """Decorate a function that returns a backbone: it also loads the weights that ``pretrained`` names.

    `inspect.signature` of it shows every argument, also those that ``**kwargs`` forwards. The function raises a
    `UsageError` if ``pretrained`` names nothing, as True does: there are several weights for most backbones.
    """

    @functools.wraps(function)
    def create(*args: P.args, **kwargs: P.kwargs) -> M:
        model = function(*args, **kwargs)
        named = getattr(model, "pretrained", None)
        if named and not isinstance(named, str | Path):
            raise UsageError(f"{function.__name__}(pretrained={named!r}): {HINT}")
        return weights.load_pretrained(model)

    shown = inspect.signature(function)
    own = [each for each in shown.parameters.values() if each.kind is not each.VAR_KEYWORD]
    forwarded = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=each.annotation)
        for name, each in signature(function).items()
        if name not in shown.parameters
    ]
    create.__signature__ = shown.replace(parameters=[*own, *forwarded])  # type: ignore[attr-defined]
    return create
