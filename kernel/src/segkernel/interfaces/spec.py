"""`Spec[X]`: a component's config, already checked, for the parent to complete and call.

def __init__(self, in_channels: int, pixel_decoder: Spec[PixelDecoder]):
    self.pixel_decoder = pixel_decoder(in_channels=in_channels)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

T_co = TypeVar("T_co", covariant=True)


class Spec(Generic[T_co]):
    """A class with some of its arguments; calling it with the rest builds the object.

    Args:
        factory: What to call.
        arguments: Those given by the config, already checked and built.
    """

    def __init__(self, factory: Callable[..., T_co], /, **arguments: Any) -> None:
        self.factory = factory
        self.arguments: Mapping[str, Any] = arguments

    def __call__(self, *positional: Any, **more: Any) -> T_co:
        """Build the object; the parent's arguments override those of the config."""
        return self.factory(*positional, **{**self.arguments, **more})

    def __repr__(self) -> str:
        return f"Spec({getattr(self.factory, '__name__', self.factory)}, {dict(self.arguments)})"
