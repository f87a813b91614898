"""Published configs under our names, by the code of ``seg-kernel import``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segplug_heads.moving_in.names import our_name as our_name
from segplug_heads.moving_in.names import translate as translate
from segplug_heads.moving_in.training import paramwise_section


def our_paramwise(config: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Convert a ``paramwise_cfg``; in our configs layer decay is a separate option."""
    return paramwise_section(dict(config or {}))
