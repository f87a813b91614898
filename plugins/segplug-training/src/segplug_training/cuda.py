"""`CUDAEngine`: one device at full speed, by mixed precision, memory layout and torch's switches for it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import TypedDict

from segkernel.annotations import Positive
from segkernel.config.sections import Threads
from segkernel.engine import LocalEngine
from segkernel.errors import UsageError
from segkernel.interfaces.model import Segmentor

log = logging.getLogger(__name__)


class EngineArguments(TypedDict, total=False):
    """The arguments of `CUDAEngine`, for engines that pass them on."""

    device: str
    threads: Threads | None
    amp: bool | Literal["float16", "bfloat16"]
    loss_scale: Positive | None
    channels_last: bool
    cudnn_benchmark: bool
    tf32: bool
    flush_denormals: bool


class CUDAEngine(LocalEngine):
    """Train and predict on one device, a GPU or the processor, with what makes it faster.

    A config means it that gives no ``type`` under ``engine``. Without arguments it computes what `LocalEngine` does.

    Args:
        device: ``auto`` takes CUDA, else Apple's MPS, else the processor; or any torch device, ``cuda:1``.
        threads: Threads of torch on the processor; None leaves torch's choice.
        amp: Autocast: ``True`` is float16 on CUDA (with loss scaling) and bfloat16 elsewhere, or name the type. A
            processor without instructions for bfloat16 stays in float32, with a warning.
        loss_scale: What the loss is multiplied with under float16; found on the way when None.
        channels_last: Keep weights, and so feature maps, in channels-last order, which convolutions on a processor and
            on tensor cores are faster with.
        cudnn_benchmark: Let cuDNN try its algorithms; good when the input size is fixed, not bit-reproducible.
        tf32: Multiply float32 matrices with 10 bits of mantissa on tensor cores (torch's own default is for
            convolutions only).
        flush_denormals: Take numbers below 1e-38 as 0 on the processor, which is slow with them.

    Raises:
        UsageError: When the device is not there.
    """

    def __init__(
        self,
        device: str = "auto",
        threads: Threads | None = None,
        amp: bool | Literal["float16", "bfloat16"] = False,
        loss_scale: Positive | None = None,
        channels_last: bool = False,
        cudnn_benchmark: bool = False,
        tf32: bool = False,
        flush_denormals: bool = False,
    ) -> None:
        super().__init__(device, threads)
        self.amp = _amp_type(amp, self.device)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.loss_scale = loss_scale
        scaled = self.amp is torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type, init_scale=loss_scale or 2.0**16, enabled=scaled)
        torch.backends.cudnn.benchmark = cudnn_benchmark
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        torch.set_flush_denormal(flush_denormals)

    def prepare_model(self, segmentor: Segmentor, preprocessor: nn.Module) -> None:
        super().prepare_model(segmentor, preprocessor)
        segmentor.to(memory_format=self.memory_format)  # type: ignore[call-overload]

    def autocast(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.amp is None else torch.autocast(self.device.type, dtype=self.amp)

    def backward(self, loss: Tensor) -> None:
        super().backward(self.scaler.scale(loss))

    def clip(self, max_norm: float, norm_type: float = 2.0) -> Tensor:
        self.scaler.unscale_(self.optimizer)
        return super().clip(max_norm, norm_type)

    def step(self) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update(self.loss_scale)

    def state_dict(self) -> dict[str, Any]:
        return {"scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state.get("scaler"):
            self.scaler.load_state_dict(dict(state["scaler"]))


def _amp_type(amp: bool | str, device: torch.device) -> torch.dtype | None:
    if amp is True:
        amp = "float16" if device.type == "cuda" else "bfloat16"
    types = {False: None, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if amp not in types:
        raise UsageError(f"amp is true, false, float16 or bfloat16, not {amp!r}")
    if types[amp] is torch.bfloat16 and device.type == "cpu" and not _computes_in_bfloat16():
        log.warning("engine.amp: this processor has no bfloat16, which makes it ten times slower; float32 is taken")
        return None
    return types[amp]


def _computes_in_bfloat16() -> bool:
    """Whether oneDNN has convolutions in bfloat16 here; without them torch takes a reference implementation."""
    return not torch.backends.mkldnn.is_available() or torch.ops.mkldnn._is_mkldnn_bf16_supported()
