"""`LocalEngine`: one process, one device of any kind, with gradient accumulation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from segkernel.config.sections import Threads
from segkernel.errors import PeerError, SegKernelError, TrainingError, UsageError, worker_crash_of
from segkernel.interfaces.model import Engine, Segmentor
from segkernel.sample import Batch, Targets, map_tensors


class LocalEngine(Engine):
    """Train and predict on one device, as a plain loop does.

    Base class of other engines: they override `autocast`, `backward`, `clip` and `step` for other precisions,
    `compute_loss`, `accumulating` and the collective operations for several devices.

    Args:
        device: ``auto`` takes CUDA, else Apple's MPS, else the CPU; or any torch device, ``cuda:1``.
        threads: Number of CPU threads of torch; None keeps torch's default.
        activation_checkpointing: Store only the inputs of the blocks that have ``with_cp``, and recompute the rest in
            the backward pass, to save memory.

    Raises:
        UsageError: When the device is not available.
    """

    def __init__(
        self, device: str = "auto", threads: Threads | None = None, activation_checkpointing: bool = False
    ) -> None:
        self.device, self.checkpoints_blocks = _device(device), activation_checkpointing
        if threads is not None:
            torch.set_num_threads(threads)

    def prepare_model(self, segmentor: Segmentor, preprocessor: nn.Module) -> None:
        self.segmentor = segmentor.to(self.device)
        self.preprocessor = preprocessor.to(self.device)

    def prepare_optimizer(
        self, optimizer: torch.optim.Optimizer, clip_grad: Mapping[str, float] | None = None
    ) -> torch.optim.Optimizer:
        if clip_grad is not None and not clip_grad.get("max_norm", 0) > 0:
            raise UsageError(f"clip_grad needs a max_norm above 0, got {dict(clip_grad)}")
        self.optimizer, self.clip_grad = optimizer, dict(clip_grad or {})
        if self.checkpoints_blocks:
            _checkpoint_blocks(self.segmentor)
        return optimizer

    def train_step(self, micro_batches: Sequence[Batch]) -> dict[str, Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        for index, batch in enumerate(micro_batches):
            with nullcontext() if index == len(micro_batches) - 1 else self.accumulating():
                losses = self._losses(batch)
                self.backward(losses["loss"] / len(micro_batches))
            for name, value in losses.items():
                part = value.detach() / len(micro_batches)
                sums[name] = sums[name] + part if name in sums else part
        if self.clip_grad:
            sums["grad_norm"] = self.clip(**self.clip_grad)
        self.step()
        return sums

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        images, targets = self.preprocessor(batch.to(self.device, non_blocking=True))
        with self.autocast():
            return _with_total(self.compute_loss(images, targets))

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context of every forward pass, which sets its precision."""
        return nullcontext()

    def compute_loss(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Return the segmentor's named scalars for a training batch."""
        return self.segmentor.loss(images, targets)

    def accumulating(self) -> AbstractContextManager[Any]:
        """Return the context of every backward pass but the last of a step, where gradients need not be exchanged."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a micro-batch's share of the loss."""
        loss.backward()

    def clip(self, max_norm: float, norm_type: float = 2.0) -> Tensor:
        """Scale the gradients down to a norm of at most ``max_norm``; return the norm they had."""
        return nn.utils.clip_grad_norm_(self.segmentor.parameters(), max_norm, norm_type).detach()

    def step(self) -> None:
        """Run one optimiser step."""
        self.optimizer.step()

    @torch.no_grad()
    def predict(self, images: Tensor) -> dict[str, Any]:
        with self.autocast():
            return map_tensors(self.segmentor.predict(images), _full_precision)

    @torch.no_grad()
    def predict_with_loss(self, images: Tensor, targets: Targets) -> tuple[dict[str, Any], dict[str, Tensor]]:
        with self.autocast():
            raw, losses = self.segmentor.predict_with_loss(images, targets)
            return map_tensors(raw, _full_precision), _with_total(losses)

    def model_state(self) -> dict[str, Tensor]:
        return self.segmentor.state_dict()

    def load_model_state(self, state: Mapping[str, Tensor]) -> Any:
        return self.segmentor.load_state_dict(state, strict=False)

    def optimizer_state(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load_optimizer_state(self, state: Mapping[str, Any]) -> None:
        self.optimizer.load_state_dict(dict(state))


def _checkpoint_blocks(segmentor: nn.Module) -> None:
    blocks = [module for module in segmentor.modules() if hasattr(module, "with_cp")]
    if not blocks:
        raise UsageError("engine.activation_checkpointing: no block has with_cp; DDPEngine also takes names of modules")
    for block in blocks:
        setattr(block, "with_cp", True)  # noqa: B010 (to type checkers a module's attributes are tensors)


def _with_total(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return named scalars together with ``loss``, the sum of those that are losses."""
    terms = [value.mean() for name, value in losses.items() if "loss" in name]
    return {**losses, "loss": torch.stack([term.float() for term in terms]).sum()}


def _full_precision(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f"device {name!r} is not available: {str(error).splitlines()[0]}") from error
    return device


@contextmanager
def together(engine: Engine) -> Iterator[None]:
    """Run a block on every rank: when it fails on one, all ranks raise that error, and one prints it.

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
    sent = failure if isinstance(failure, SegKernelError | None) else PeerError(f"{type(failure).__name__}: {failure}")
    rank, first = next((rank, error) for rank, error in enumerate(engine.gather(sent)) if error is not None)
    own = rank == engine.rank
    raised = failure if own and failure is not None else first  # its own keeps its traceback
    if isinstance(raised, SegKernelError):
        raised.on_all_ranks, raised.reported = True, not own
        if engine.world_size > 1:
            raised.args = (f"rank {rank}: {raised}", *raised.args[1:])
    raise raised


@contextmanager
def blame_batch(batches: Sequence[Batch]) -> Iterator[None]:
    """Name the batch in the error when the model cannot process one, or memory is exhausted."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if worker_crash_of(error):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        hint = next((hint for words, hint in _HINTS.items() if words in reason), "--traceback shows where")
        sizes = " + ".join(" x ".join(map(str, batch.images.shape)) for batch in batches)
        listed = "\n    ".join(sample_names(batches))
        raise TrainingError(f"the model failed on images {sizes}: {reason}\n    {hint}\n    {listed}") from error


_HINTS = {
    "more than 1 value per channel": "batch normalisation needs two samples or larger images: data.micro_batch",
    "out of memory": "reduce data.micro_batch or data.crop_size, or enable engine.amp",
}


def sample_names(batches: Sequence[Batch]) -> list[str]:
    """Return the names of the samples of these batches, usually their file paths."""
    return [str(meta.get("path", meta.get("name"))) for batch in batches for meta in batch.meta]
