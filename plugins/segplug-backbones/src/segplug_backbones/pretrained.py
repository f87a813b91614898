"""`Pretrained`: the base of every backbone that has the argument ``pretrained``, and ``adapt``.

ResNet(depth=50, pretrained="torchvision://resnet50")       # with these weights, or an error
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from segkernel import weights
from segkernel.errors import UsageError
from segplug_backbones.adapters import Adapter

HINT = """name the weights: a file, an address, or a known name such as 'torchvision://resnet50'; None loads none"""


class Pretrained(nn.Module):
    """A module that has loaded the weights that its argument ``pretrained`` names when its constructor returns.

    A constructor only stores the name in the attribute ``pretrained``, which is None after loading. Likewise, it stores
    an adapter in ``adapt``, which is then applied.

    Raises:
        UsageError: ``pretrained`` names nothing, as True does: there are several weights for most backbones.
        CheckpointError: The weights cannot be read, or none of them fits.
    """

    pretrained: str | None
    adapt: Adapter | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            cls.__init__ = _load_after(cls.__init__)  # type: ignore[method-assign]


def _load_after(constructor: Callable[..., None]) -> Callable[..., None]:
    """Return a constructor that loads the weights at its end, if it is not called by that of a subclass."""

    @functools.wraps(constructor)
    def construct(self: Pretrained, *args: Any, **kwargs: Any) -> None:
        constructor(self, *args, **kwargs)
        if type(self).__init__ is construct:
            if self.pretrained and not isinstance(self.pretrained, str | Path):
                raise UsageError(f"{type(self).__name__}(pretrained={self.pretrained!r}): {HINT}")
            weights.load_pretrained(self)
            if self.adapt is not None:  # after its weights are loaded, which an adapter may look at
                self.adapt(self)

    return construct
