"""How configs of MMSegmentation are laid over their bases: mappings merge deep, ``_delete_`` drops, the rest replaces.

Unlike in configs here, another ``type`` drops nothing.
"""

from __future__ import annotations

from typing import Any

from segkernel.config.marks import MarkedDict


def merge(base: Any, over: Any) -> Any:
    """Return ``base`` with ``over`` laid over it; neither is modified."""
    if isinstance(over, dict):
        kept = base if isinstance(base, dict) and not over.get("_delete_") else {}
        places = {**getattr(kept, "places", {}), **getattr(over, "places", {})}
        result = MarkedDict(kept, places=places, place=getattr(over, "place", None))
        for key, value in over.items():
            if key != "_delete_":
                result[key] = merge(kept.get(key), value)
        return result
    return over
