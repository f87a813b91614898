"""`CUDAEngine`: one device at full speed, with mixed precision, memory layout, compilation and torch's switches."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import TypedDict

from segkernel.annotations import FileName, Positive
from segkernel.config.sections import Threads
from segkernel.engine import LocalEngine
from segkernel.errors import UsageError
from segkernel.interfaces.model import Segmentor
from segkernel.sample import Batch, Targets
from segplug_training.activation_checkpointing import checkpoint_activations
from segplug_training.cores import threads_per_rank
from segplug_training.deterministic import Determinism, Mode
from segplug_training.fused import fuse, keep_kernel_flags
from segplug_training.loss_module import Compiled, CompileMode, LossModule
from segplug_training.memory import keep_freed_memory
from segplug_training.ranks import is_launched
from segplug_training.smaller_batches import SmallerBatches

log = logging.getLogger(__name__)


class EngineArguments(TypedDict, total=False):
    """The arguments of `CUDAEngine`, for engines that pass them on."""

    device: str
    threads: Threads | None
    amp: bool | Literal["float16", "bfloat16"]
    loss_scale: Positive | None
    channels_last: bool | None
    cudnn_benchmark: bool
    tf32: bool
    flush_denormals: bool
    compile: bool | CompileMode
    compile_cache: FileName | None
    activation_checkpointing: bool | Sequence[str]
    fused: bool
    smaller_batches: bool
    deterministic: Mode | None


class CUDAEngine(LocalEngine):
    """Train and predict on one device, GPU or CPU, with mixed precision, compilation and other speed-ups.

    Without arguments it computes the same as `LocalEngine`, up to the order of some sums.
    Batches are copied to a GPU asynchronously, on a separate stream.

    Args:
        device: ``auto`` takes CUDA, else Apple's MPS, else the CPU; or any torch device, ``cuda:1``.
        threads: Threads of torch on the CPU; None is torch's default, limited to the cores that affinity, container
            and the other processes of the run leave.
        amp: Autocast: ``True`` is float16 on CUDA (with loss scaling) and bfloat16 elsewhere, or name the type. A
            CPU without bfloat16 instructions stays in float32, with a warning.
        loss_scale: Constant loss scale for float16; None adjusts it dynamically.
        channels_last: Keep weights, and so feature maps, in channels-last order, which is faster for convolutions on
            CPUs and tensor cores; None does so on the CPU, and on a GPU in half precision. On the CPU it is never used
            for models with strided 1x1 convolutions of fewer than 8 channels, for which oneDNN fails.
        cudnn_benchmark: Let cuDNN time its algorithms; good when the input size is fixed, not bit-reproducible.
        tf32: Multiply float32 matrices in TF32, with 10 bits of mantissa, on tensor cores (torch's default is for
            convolutions only).
        flush_denormals: Flush denormal numbers (below 1e-38) to 0 on the CPU, which is slow with them.
        compile: Compile the loss, forward and backward, with `torch.compile`, or name its mode; ``reduce-overhead``
            and ``max-autotune`` record CUDA graphs. If compilation fails, it runs uncompiled, with a warning.
            Evaluation, whose images vary in size, is not compiled.
        compile_cache: Folder that keeps compiled kernels for the next run; None is torch's default, or
            TORCHINDUCTOR_CACHE_DIR.
        activation_checkpointing: Store only the inputs of blocks and recompute the rest in the backward pass, to save
            memory: ``True`` is every block that has ``with_cp``, or names of modules, ``backbone.layer*``.
        fused: Update all parameters in one kernel where torch has one for the optimiser.
        smaller_batches: When memory runs out, continue with smaller micro-batches and the same batch per step, with a
            warning. Several ranks end, and do so when torchrun starts them again.
        deterministic: Use torch's deterministic algorithms, so that two runs on one machine are bit-identical; slower
            on a GPU. ``warn`` names each operation that has none, with its module; ``strict`` stops the run there.

    Raises:
        UsageError: When the device is not available, or ``cudnn_benchmark`` is combined with ``deterministic``.
    """

    def __init__(
        self,
        device: str = "auto",
        threads: Threads | None = None,
        amp: bool | Literal["float16", "bfloat16"] = False,
        loss_scale: Positive | None = None,
        channels_last: bool | None = None,
        cudnn_benchmark: bool = False,
        tf32: bool = False,
        flush_denormals: bool = False,
        compile: bool | CompileMode = False,
        compile_cache: FileName | None = None,
        activation_checkpointing: bool | Sequence[str] = False,
        fused: bool = True,
        smaller_batches: bool = True,
        deterministic: Mode | None = None,
    ) -> None:
        super().__init__(device, threads, activation_checkpointing is True)
        if type(self) is CUDAEngine and is_launched():
            log.warning("engine.type CUDAEngine: each process trains its own model; use DDPEngine")
        if self.device.type == "cpu":
            keep_freed_memory()
        if threads is None and self.device.type == "cpu" and threads_per_rank() < torch.get_num_threads():
            torch.set_num_threads(threads_per_rank())
        self.amp = _amp_type(amp, self.device)
        if channels_last is None:
            channels_last = self.device.type == "cpu" or (self.device.type == "cuda" and self.amp is not None)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.loss_scale = loss_scale
        scaled = self.amp is torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type, init_scale=loss_scale or 2.0**16, enabled=scaled)
        self.smaller_batches = SmallerBatches() if smaller_batches else None
        self.compile, self.fused = compile, fused
        self.checkpointed = () if isinstance(activation_checkpointing, bool) else activation_checkpointing
        if compile_cache is not None:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(compile_cache)
        if deterministic and cudnn_benchmark:
            raise UsageError("engine.cudnn_benchmark selects algorithms by time; disable it, or engine.deterministic")
        self.determinism = Determinism(deterministic) if deterministic else None
        torch.backends.cudnn.benchmark = cudnn_benchmark
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        torch.set_flush_denormal(flush_denormals)

    def prepare_model(self, segmentor: Segmentor, preprocessor: nn.Module) -> None:
        super().prepare_model(segmentor, preprocessor)
        if self.device.type == "cpu" and any(map(_corrupts_memory, segmentor.modules())):
            self.memory_format = torch.contiguous_format
        segmentor.to(memory_format=self.memory_format)  # type: ignore[call-overload]

    def prepare_optimizer(
        self, optimizer: torch.optim.Optimizer, clip_grad: Mapping[str, float] | None = None
    ) -> torch.optim.Optimizer:
        for kind, reason in _UNUSABLE.items():
            if isinstance(optimizer, kind):
                raise UsageError(f"optim.optimizer: {kind.__name__} {reason}; use AdamW or SGD")
        optimizer = super().prepare_optimizer(optimizer, clip_grad)
        if self.device.type == "cuda":
            _compile_loss(self.device)
        if self.fused:
            fuse(optimizer, self.device)
        checkpoint_activations(self.segmentor, self.checkpointed)
        self.wrap_loss()
        return optimizer

    def wrap_loss(self) -> None:
        """Make the module that computes the training loss, compiled if enabled."""
        wrapped = self.wrap(LossModule(self.segmentor))
        mode = self.compile if isinstance(self.compile, str) else "default"
        self.loss_of = Compiled(wrapped, mode=mode) if self.compile else wrapped

    def wrap(self, loss_module: LossModule) -> nn.Module:
        """Return the module that computes the training loss; engines of several processes wrap it here."""
        return loss_module

    def transfer(self, batches: Iterable[Batch]) -> Generator[Batch, None, None]:
        if self.device.type != "cuda":
            yield from super().transfer(batches)
            return
        copying = torch.cuda.Stream(self.device)
        for batch in batches:
            # The previous step is still running: its work was only queued.
            with torch.cuda.stream(copying):
                moved = batch.to(self.device, non_blocking=True)
            computing = torch.cuda.current_stream(self.device)
            computing.wait_stream(copying)
            moved.map(partial(_used_on, computing))
            yield moved

    def train_step(self, micro_batches: Sequence[Batch]) -> dict[str, Tensor]:
        if self.determinism is None:
            return self._train_step(micro_batches)
        with self.determinism.watching(self.segmentor, follow=not self.compile):
            return self._train_step(micro_batches)

    def _train_step(self, micro_batches: Sequence[Batch]) -> dict[str, Tensor]:
        if self.smaller_batches is None:
            return super().train_step(micro_batches)
        return self.smaller_batches.step(super().train_step, micro_batches)

    def compute_loss(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        return self.loss_of(images, targets)

    def autocast(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.amp is None else torch.autocast(self.device.type, dtype=self.amp)

    def backward(self, loss: Tensor) -> None:
        super().backward(self.scaler.scale(loss))

    def clip(self, max_norm: float, norm_type: float = 2.0) -> Tensor:
        self.scaler.unscale_(self.optimizer)
        return super().clip(max_norm, norm_type)

    def step(self) -> None:
        if self.smaller_batches is not None:
            self.smaller_batches.is_updating = True
        self.scaler.step(self.optimizer)
        self.scaler.update(self.loss_scale)

    def load_optimizer_state(self, state: Mapping[str, Any]) -> None:
        super().load_optimizer_state(keep_kernel_flags(self.optimizer, state))

    def state_dict(self) -> dict[str, Any]:
        parts = 1 if self.smaller_batches is None else self.smaller_batches.parts
        return {"scaler": self.scaler.state_dict(), "parts": parts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state.get("scaler"):
            self.scaler.load_state_dict(dict(state["scaler"]))
        if self.smaller_batches is not None:
            self.smaller_batches.parts = max(self.smaller_batches.parts, state.get("parts", 1))


_UNUSABLE: Mapping[type[torch.optim.Optimizer], str] = {
    torch.optim.LBFGS: "evaluates the loss several times per step, a training step once",
    torch.optim.SparseAdam: "updates sparse gradients only, and those of these models are dense",
}


def _compile_loss(device: torch.device) -> None:
    """Compute the cross-entropy of upsampled logits in one kernel where Triton is installed."""
    try:
        from segplug_training import triton_loss

        triton_loss.register(device)
    except Exception as error:  # Triton compiles here, with the system's compiler and driver
        log.warning("no Triton kernel for the loss of upsampled logits; torch computes it in tiles of rows: %s", error)


def _corrupts_memory(module: nn.Module) -> bool:
    """Whether oneDNN writes past the end of an array in its channels-last backward pass, which crashes the process.

    Seen with strided 1x1 convolutions of 2 to 6 channels (torch 2.13), not with 7 to 64.
    """
    if not isinstance(module, nn.Conv2d) or module.in_channels // module.groups >= 8:
        return False
    return module.kernel_size == (1, 1) and module.stride != (1, 1)


def _used_on(stream: torch.cuda.Stream, tensor: Tensor) -> Tensor:
    """Keep a tensor's memory from being reused by the stream that made it while another stream still reads it."""
    tensor.record_stream(stream)
    return tensor


def _amp_type(amp: bool | str, device: torch.device) -> torch.dtype | None:
    if amp is True:
        amp = "float16" if device.type == "cuda" else "bfloat16"
    types = {False: None, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if amp not in types:
        raise UsageError(f"engine.amp: expected true, false, float16 or bfloat16, not {amp!r}")
    if types[amp] is torch.bfloat16 and device.type == "cpu" and not _computes_in_bfloat16():
        log.warning("engine.amp: this CPU has no bfloat16 instructions, which makes it ten times slower; using float32")
        return None
    return types[amp]


def _computes_in_bfloat16() -> bool:
    """Whether oneDNN has convolutions in bfloat16 here; without them torch uses a slow reference implementation."""
    return not torch.backends.mkldnn.is_available() or torch.ops.mkldnn._is_mkldnn_bf16_supported()
