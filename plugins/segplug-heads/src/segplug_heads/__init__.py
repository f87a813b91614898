"""Segmentors, decode heads and losses for seg-kernel, as plain modules.

    from segplug_heads import EncoderDecoder, PSPHead

Importing it imports no torch; the names below are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segplug_heads.aspp_head import ASPPHead
    from segplug_heads.dice_loss import DiceLoss
    from segplug_heads.encoder_decoder import EncoderDecoder
    from segplug_heads.fcn_head import FCNHead
    from segplug_heads.psp_head import PSPHead
    from segplug_heads.segformer_head import SegformerHead
    from segplug_heads.sep_aspp_head import DepthwiseSeparableASPPHead
    from segplug_heads.sep_fcn_head import DepthwiseSeparableFCNHead

_HOMES = {
    "ASPPHead": "aspp_head",
    "DepthwiseSeparableASPPHead": "sep_aspp_head",
    "DepthwiseSeparableFCNHead": "sep_fcn_head",
    "DiceLoss": "dice_loss",
    "EncoderDecoder": "encoder_decoder",
    "FCNHead": "fcn_head",
    "PSPHead": "psp_head",
    "SegformerHead": "segformer_head",
}

__all__ = [
    "ASPPHead",
    "DepthwiseSeparableASPPHead",
    "DepthwiseSeparableFCNHead",
    "DiceLoss",
    "EncoderDecoder",
    "FCNHead",
    "PSPHead",
    "SegformerHead",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
