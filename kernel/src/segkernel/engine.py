"""`LocalEngine`: one process, one device of any kind, with autocast and gradient accumulation."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, Literal

import torch
from torch import Tensor, nn

from segkernel.annotations import Positive
from segkernel.config.sections import Threads
from segkernel.errors import PeerError, SegKernelError, TrainingError, UsageError, worker_crash_of
from segkernel.interfaces.model import Engine, Segmentor
from segkernel.sample import Batch, Targets, map_tensors

log = logging.getLogger(__name__)


class LocalEngine(Engine):
    """Train and predict on one device.

    The base of engines with several: they override `compute_loss` and `accumulating`, and what all ranks do together.

    Args:
        device: ``auto`` takes CUDA, else Apple's MPS, else the processor; or any torch device, ``cuda:1``.
        amp: Autocast: ``True`` is float16 on CUDA (with loss scaling) and bfloat16 elsewhere, or name the type. A
            processor without instructions for bfloat16 stays in float32, with a warning.
        loss_scale: What the loss is multiplied with under float16; found on the way when None.
        channels_last: Keep images and weights in channels-last order, which convolutions on a processor and on
            tensor cores are faster with.
        cudnn_benchmark: Let cuDNN try its algorithms; good when the input size is fixed, not bit-reproducible.
        threads: Threads of torch on the processor; None leaves torch's choice.

    Raises:
        UsageError: When the device is not there.
    """

    def __init__(
        self,
        device: str = "auto",
        amp: bool | Literal["float16", "bfloat16"] = False,
        loss_scale: Positive | None = None,
        channels_last: bool = False,
        cudnn_benchmark: bool = False,
        threads: Threads | None = None,
    ) -> None:
        self.device = _device(device)
        self.amp = _amp_type(amp, self.device)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.loss_scale = loss_scale
        scaled = self.amp is torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type, init_scale=loss_scale or 2.0**16, enabled=scaled)
        if threads is not None:
            if threads < 1:
                raise UsageError(f"threads {threads}: needs 1 or more")
            torch.set_num_threads(threads)
        if self.device.type == "cpu":
            _keep_freed_memory()
        torch.backends.cudnn.benchmark = cudnn_benchmark

    def prepare_model(self, segmentor: Segmentor, preprocessor: nn.Module) -> None:
        self.segmentor = segmentor.to(device=self.device, memory_format=self.memory_format)  # type: ignore[call-overload]
        self.preprocessor = preprocessor.to(self.device)

    def prepare_optimizer(
        self, optimizer: torch.optim.Optimizer, clip_grad: Mapping[str, float] | None = None
    ) -> torch.optim.Optimizer:
        if clip_grad is not None and not clip_grad.get("max_norm", 0) > 0:
            raise UsageError(f"clip_grad needs a max_norm above 0, got {dict(clip_grad)}")
        self.optimizer, self.clip_grad = optimizer, dict(clip_grad or {})
        return optimizer

    def train_step(self, micro_batches: Sequence[Batch]) -> dict[str, Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        for index, batch in enumerate(micro_batches):
            with nullcontext() if index == len(micro_batches) - 1 else self.accumulating():
                losses = self._losses(batch)
                self.scaler.scale(losses["loss"] / len(micro_batches)).backward()
            for name, value in losses.items():
                part = value.detach() / len(micro_batches)
                sums[name] = sums[name] + part if name in sums else part
        if self.clip_grad:
            self.scaler.unscale_(self.optimizer)
            limit, kind = self.clip_grad["max_norm"], self.clip_grad.get("norm_type", 2.0)
            sums["grad_norm"] = nn.utils.clip_grad_norm_(self.segmentor.parameters(), limit, kind).detach()
        self.scaler.step(self.optimizer)
        self.scaler.update(self.loss_scale)
        return sums

    def compute_loss(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Return the segmentor's named scalars, in training."""
        return self.segmentor.loss(images, targets)

    def accumulating(self) -> AbstractContextManager[Any]:
        """Return the context of every backward pass but the last of a step, where gradients need not be exchanged."""
        return nullcontext()

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        batch = batch.to(self.device, non_blocking=True)
        images, targets = self.preprocessor(batch)
        with self._autocast():
            return _with_total(self.compute_loss(images.contiguous(memory_format=self.memory_format), targets))

    @torch.no_grad()
    def predict(self, images: Tensor) -> dict[str, Any]:
        with self._autocast():
            raw = self.segmentor.predict(images.contiguous(memory_format=self.memory_format))
        return map_tensors(raw, _full_precision)

    @torch.no_grad()
    def predict_with_loss(self, images: Tensor, targets: Targets) -> tuple[dict[str, Any], dict[str, Tensor]]:
        images = images.contiguous(memory_format=self.memory_format)
        with self._autocast():
            raw, losses = self.segmentor.predict_with_loss(images, targets)
            return map_tensors(raw, _full_precision), _with_total(losses)

    def _autocast(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.amp is None else torch.autocast(self.device.type, dtype=self.amp)

    def model_state(self) -> dict[str, Tensor]:
        return self.segmentor.state_dict()

    def load_model_state(self, state: Mapping[str, Tensor]) -> Any:
        return self.segmentor.load_state_dict(state, strict=False)

    def optimizer_state(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load_optimizer_state(self, state: Mapping[str, Any]) -> None:
        self.optimizer.load_state_dict(dict(state))

    def state_dict(self) -> dict[str, Any]:
        return {"scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state.get("scaler"):
            self.scaler.load_state_dict(dict(state["scaler"]))


def _with_total(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return named scalars together with ``loss``, the sum of those that are losses."""
    terms = [value.mean() for name, value in losses.items() if "loss" in name]
    return {**losses, "loss": torch.stack([term.float() for term in terms]).sum()}


def _full_precision(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value


def _keep_freed_memory() -> None:
    """Tell glibc to keep large blocks that were freed: page faults are a quarter of a CPU step otherwise."""
    trim_threshold, mmap_threshold = -1, -3
    with suppress(OSError, AttributeError, TypeError):  # another C library: nothing to tell
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_threshold, 1 << 30)
        mallopt(trim_threshold, (1 << 31) - 1)


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f"device {name!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return device


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


@contextmanager
def together(engine: Engine) -> Iterator[None]:
    """A block that every rank goes through: when it fails on one, all raise that rank's error, and one prints it.

    Raises:
        PeerError: On the other ranks, when the error is not a `SegKernelError`.
    """
    failure: Exception | None = None
    try:
        yield
    except PeerError:
        raise
    except Exception as error:
        failure = worker_crash_of(error) or error
        failure.__cause__ = failure.__cause__ if failure is error else error
        engine.alert(str(failure))
    if not engine.any(failure is not None):
        return
    said = failure if isinstance(failure, SegKernelError | None) else PeerError(f"{type(failure).__name__}: {failure}")
    rank, first = next((rank, error) for rank, error in enumerate(engine.gather(said)) if error is not None)
    own = rank == engine.rank
    raised = failure if own and failure is not None else first  # its own with where it was raised
    if isinstance(raised, SegKernelError):
        raised.on_all_ranks, raised.reported = True, not own
        if engine.world_size > 1:
            raised.args = (f"rank {rank}: {raised}", *raised.args[1:])
    raise raised


@contextmanager
def blame_batch(batches: Sequence[Batch]) -> Iterator[None]:
    """Say which batch it was when a model, or the memory, cannot take one."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if worker_crash_of(error):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        hint = next((hint for words, hint in _HINTS.items() if words in reason), "--traceback shows where")
        sizes = " + ".join(" x ".join(map(str, batch.images.shape)) for batch in batches)
        listed = "\n    ".join(sample_names(batches))
        raise TrainingError(f"the model cannot take images {sizes}: {reason}\n    {hint}\n    {listed}") from error


_HINTS = {
    "more than 1 value per channel": "batch normalisation needs two samples or larger images: data.micro_batch",
    "out of memory": "less at once: data.micro_batch, data.crop_size, engine.amp",
}


def sample_names(batches: Sequence[Batch]) -> list[str]:
    """Return what the samples of some batches are called, their files as a rule."""
    return [str(meta.get("path", meta.get("name"))) for batch in batches for meta in batch.meta]
