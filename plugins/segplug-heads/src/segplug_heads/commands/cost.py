"""Cost of a model: its parameters, and the operations of one image."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from segkernel.config import Config
from segkernel.errors import SegKernelError
from segkernel.inference import Preprocessor
from segkernel.loading import make_model


def cost_of(config: Config, shape: tuple[int, int] | None = None) -> dict[str, str]:
    """Build a model without memory for its weights and count.

    Args:
        config: The whole config.
        shape: Height and width of the image; None takes ``data.crop_size``.

    Returns:
        "parameters", "trained" where some are frozen, "MACs" (multiplications with their additions, which many papers
        call FLOPs) and "FLOPs" (two for each), each a text: a number, or why there is none.
    """
    data = config.get("data") or {}
    height, width = shape or data.get("crop_size") or (512, 512)
    try:
        with torch.device("meta"):
            model = make_model(config, pretrained=False).eval()
    except SegKernelError as error:
        return {"parameters": f"unknown: {str(error).splitlines()[0]}"}
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    found = {"parameters": f"{total:,}"} | ({} if trained == total else {"trained": f"{trained:,}"})
    channels = Preprocessor(**(data.get("preprocess") or {})).mean.numel()
    try:
        model.requires_grad_(False)  # the counter cannot follow a parameter that is an argument of a module
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(torch.empty(1, channels, height, width, device="meta"))
    except NotImplementedError:  # without values
        return {**found, "MACs": "unknown: what the model computes depends on what it sees"}
    except (RuntimeError, ValueError) as error:
        return {**found, "MACs": f"unknown: {str(error).splitlines()[0]}"}
    flops, image = counter.get_total_flops() / 1e9, f"G for one image of {height} x {width}"
    return {**found, "MACs": f"{flops / 2:,.1f} {image}", "FLOPs": f"{flops:,.1f} {image}, two for each MAC"}
