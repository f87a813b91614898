"""Contracts of the model side: backbone, neck, head, loss, segmentor, engine, exporter and weight format.

N is the batch size, C the channels, K the classes, H and W the image's height and width in pixels.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from segkernel import checkpoint
from segkernel.config.sections import TestConfig as TestConfig
from segkernel.errors import ConfigError, Problem
from segkernel.geometry import Size
from segkernel.interfaces.output import Output as Output
from segkernel.interfaces.output import PixelClasses as PixelClasses
from segkernel.interfaces.output import PixelMap as PixelMap
from segkernel.interfaces.output import output_of as output_of
from segkernel.labels import Task

if TYPE_CHECKING:
    from segkernel.sample import Batch, Targets

T = TypeVar("T")
Features = Sequence[Tensor]


class Backbone(nn.Module):
    """Images (N, C, H, W) to feature maps, finest first.

    Map i is (N, channels[i], about H / strides[i], about W / strides[i]).

    A class may have an attribute ``pyramid``: by depth, 3 to 5, the arguments with which it returns one map for each
    of the strides 2, 4, ..., 2 ** depth that it has.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def layer_of(self, parameter: str, num_layers: int, stage_wise: bool = False) -> int | None:
        """Return the depth of a parameter, from 0 for the embeddings to ``num_layers``, or None for the undecayed
        learning rate of a head. Used by the option ``layer_decay``; ``parameter`` is its name in the backbone."""
        kind = "stages" if stage_wise else "layers"
        raise ConfigError(Problem(f"{type(self).__name__} has no numbered {kind}", "optim.paramwise.layer_decay"))


class Neck(nn.Module):
    """Feature maps to feature maps."""

    def forward(self, features: Features) -> tuple[Tensor, ...]:
        raise NotImplementedError


class Loss(nn.Module):
    """Logits (N, K, H, W) and class ids (N, H, W) to a scalar. Logged under ``name`` (``loss_ce``).

    Pixels with ``ignore_index`` do not count; when all are ignored the result is a finite zero with a gradient.
    A loss whose attribute ``use_sigmoid`` is true also takes 1 or 0 for each channel, (N, K, H, W).
    """

    name: str
    at_stride: ClassVar[bool] = False
    """Whether it takes logits (N, K, h, w) at the model's own stride with labels (N, H, W), and the keyword
    ``align_corners`` (bool, how to upsample them); for other losses a head upsamples them."""

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        *,
        weight: Tensor | None = None,
        ignore_index: int = 255,
        avg_factor: float | None = None,
    ) -> Tensor:
        raise NotImplementedError


class _SinglePass(nn.Module):
    """A module with ``predict`` and ``loss`` that may compute both in one forward pass, by `single_pass`."""

    @property
    def one_pass(self) -> bool:
        """Whether prediction and loss take one forward pass, so that a validation has the loss at little cost."""
        return self._has_single_pass()

    def _has_single_pass(self) -> bool:
        """Tell whether `single_pass` matches the ``predict`` and ``loss`` of the class."""
        classes, names = type(self).__mro__, ("single_pass", "predict", "loss")
        depth = [next(i for i, cls in enumerate(classes) if name in vars(cls)) for name in names]
        return depth[0] == min(depth)  # no subclass of it overrides one of the others

    def single_pass(self, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Tensor]]:
        """Return what `predict` and `loss` return, from one forward pass; it takes the arguments of both.

        A subclass that overrides ``predict`` or ``loss`` but not this is run twice instead.
        """
        raise NotImplementedError

    def predict_with_loss(self: Any, *inputs: Any, **options: Any) -> tuple[Any, dict[str, Tensor]]:
        """Return what `predict` and `loss` return, by running the model once where it has `single_pass`, else twice.

        Args:
            inputs: Those of `loss`, the targets last.
            options: Further keyword arguments of `predict`.
        """
        if self._has_single_pass():
            return self.single_pass(*inputs, **options)
        return self.predict(*inputs[:-1], **options), self.loss(*inputs)


class Head(_SinglePass):
    """Feature maps to class logits."""

    output: Output
    """How the logits are to be interpreted."""
    tasks: ClassVar[tuple[Task, ...]] = ("multiclass",)
    """Supported tasks; a head that supports more than one takes the argument ``task``."""

    def forward(self, features: Features) -> Tensor:
        """Return logits (N, K, h, w) at the head's own stride."""
        raise NotImplementedError

    def loss(self, features: Features, targets: Targets) -> dict[str, Tensor]:
        """Return named scalars; those whose key contains ``loss`` are summed and minimised, others are logged."""
        raise NotImplementedError

    def predict(self, features: Features, size: Size | None = None) -> Tensor:
        """Return logits for inference; same as `forward` unless the head predicts differently than it trains.

        ``size``, the image's (height, width), is for heads that resize before they activate.
        """
        return self(features)


class CascadeHead(Head):
    """A head that refines ``previous``, the logits (N, K, h, w) of the one before it."""

    def forward(self, features: Features, previous: Tensor) -> Tensor:  # type: ignore[override]
        raise NotImplementedError

    def loss(self, features: Features, previous: Tensor, targets: Targets) -> dict[str, Tensor]:  # type: ignore[override]
        raise NotImplementedError

    def predict(  # type: ignore[override]
        self, features: Features, previous: Tensor, size: Size | None = None
    ) -> Tensor:
        return self(features, previous)

    def configure(self, train_cfg: Mapping[str, Any], test_cfg: Mapping[str, Any]) -> None:
        """Apply what the segmentor's ``train_cfg`` and ``test_cfg`` set for this head."""


class Segmentor(_SinglePass):
    """A whole model: normalised images in, logits out; otherwise a plain torch module."""

    outputs: dict[str, Output]
    """By name; the main output is called ``seg``."""
    test_cfg: TestConfig

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, K, h, w) of the main output for normalised images (N, C, H, W)."""
        raise NotImplementedError

    def loss(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Return named scalars, ``{"decode.loss_ce": ...}``; those whose key contains ``loss`` are summed.

        With `Targets.of`, a segmentor also takes class ids (N, H, W), as segplug-heads' segmentors do.
        """
        raise NotImplementedError

    def predict(self, images: Tensor) -> dict[str, Any]:
        """Return the raw values of each output, as its `Output` defines them: logits of any size for `PixelClasses`."""
        raise NotImplementedError


class Engine(ABC):
    """Where and how a step runs: device, precision, parallelism. The runner accesses devices only through it.

    A process of a run is a rank. Collective operations must be called by every rank, equally often and in the same
    order; a multi-process engine implements `gather`, on which the others are built, and may override those with
    something faster. When a rank has failed or exited, they raise `PeerError` on the others.
    """

    device: torch.device
    rank: int = 0
    world_size: int = 1

    # ------------------------------------------------------------ local operations

    @abstractmethod
    def prepare_model(self, segmentor: Segmentor, preprocessor: nn.Module) -> None:
        """Move the model and the preprocessor to the device and wrap them if needed."""

    @abstractmethod
    def prepare_optimizer(
        self, optimizer: torch.optim.Optimizer, clip_grad: Mapping[str, float] | None = None
    ) -> torch.optim.Optimizer:
        """Set the optimiser that `train_step` uses; ``clip_grad`` is {max_norm, norm_type}."""

    def transfer(self, batches: Iterable[Batch]) -> Generator[Batch, None, None]:
        """Yield batches on the device, without prefetching; those in pinned memory are copied asynchronously."""
        for batch in batches:
            yield batch.to(self.device, non_blocking=True)

    @abstractmethod
    def train_step(self, micro_batches: Sequence[Batch]) -> dict[str, Tensor]:
        """Run one optimiser step; return the mean of each named scalar, and ``loss``, detached and on the device.

        The values are local to this rank; average them over the ranks before reporting.
        """

    @abstractmethod
    def predict(self, images: Tensor) -> dict[str, Any]:
        """Return `Segmentor.predict` of normalised images that are on the device, without gradients."""

    @abstractmethod
    def predict_with_loss(self, images: Tensor, targets: Targets) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return `Segmentor.predict_with_loss`, and ``loss``, the sum of the losses, without gradients.

        Images and targets are on the device; the model stays in the mode it is in.
        """

    # ------------------------------------------------------------ collective operations

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, in rank order, on every rank; values must be small and picklable."""
        return [value]

    def agree(self, value: T) -> T:
        """Return rank 0's value on every rank."""
        return self.gather(value)[0]

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on any rank."""
        return any(self.gather(flag))

    def barrier(self) -> None:
        """Wait until all ranks have called this."""
        self.gather(None)

    def sum(self, terms: Mapping[str, Sequence[float]]) -> dict[str, float]:
        """Return the sum of all terms of all ranks by name; a rank may lack a name.

        It is rounded once, at the end, so that it does not depend on how the terms are distributed over the ranks.
        """
        parts = self.gather(terms)
        names = dict.fromkeys(name for part in parts for name in part)
        return {name: math.fsum(chain.from_iterable(part.get(name, ()) for part in parts)) for name in names}

    def merge(self, metric: Any) -> Any:
        """Return the `Metric` merged over all ranks."""
        whole, *others = self.gather(metric)
        for other in others:
            whole.merge(other)
        return whole

    def alert(self, reason: str) -> None:  # noqa: B027 (a single rank has no peers)
        """Notify the other ranks, without waiting for them, that this one has failed."""

    @property
    def alerted(self) -> bool:
        """Whether another rank has raised an alert, so that a loop without collective calls can end early."""
        return False

    # ------------------------------------------------------------ state

    def evaluating(self) -> AbstractContextManager[Any]:
        """Return the context of an evaluation, in which buffers, such as running statistics, are the same on all ranks
        although they call `predict` for different numbers of images."""
        return nullcontext()

    @abstractmethod
    def model_state(self) -> dict[str, Tensor]:
        """Return the model's full state dict with the keys it has on one process; a collective call with the same
        result on all ranks."""

    @abstractmethod
    def load_model_state(self, state: Mapping[str, Tensor]) -> Any:
        """Copy values with keys as in `model_state` into the model; others keep their values.

        Return what ``load_state_dict(state, strict=False)`` returns: ``missing_keys`` and ``unexpected_keys``.
        """

    @abstractmethod
    def optimizer_state(self) -> dict[str, Any]:
        """Return the optimiser's full state dict, as on one process; a collective call."""

    @abstractmethod
    def load_optimizer_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `optimizer_state` returned."""

    def write(self, path: Path, state: Mapping[str, Any]) -> None:
        """Write a checkpoint with these entries; a collective call, possibly during training."""
        if self.rank == 0:
            checkpoint.save(path, state)

    def read(self, path: Path) -> dict[str, Any]:
        """Return the content of a checkpoint to resume, as `checkpoint.load`; a collective call."""
        return checkpoint.load(path)

    def state_dict(self) -> dict[str, Any]:
        """Return further state to restore on resume, such as a gradient scaler's."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 (most engines have no state)
        """Restore what `state_dict` returned."""


class Exporter(ABC):
    """A file format, and the runtime that loads it back."""

    suffix: ClassVar[str]
    """With the dot: ``.onnx``."""

    @abstractmethod
    def export(
        self, segmentor: Segmentor, path: Path, example: Tensor, metadata: Mapping[str, Any] | None = None
    ) -> str:
        """Write ``segmentor`` to ``path``, compare the outputs of both on ``example`` (N, C, H, W), raise `ExportError`
        when they differ. ``metadata`` (classes, palette, preprocess) is stored in the file; the result
        of `load` has it as its attribute ``metadata``. Return a report of the comparison, text to print."""

    @abstractmethod
    def load(self, path: Path, device: str | None = None) -> Segmentor:
        """Return the file as a segmentor that only predicts, for the same test loop as a model.

        ``device`` is the device to run on, as torch writes it; a runtime that does not support it raises
        `ExportError`. None leaves the choice to the runtime, whose attribute ``device`` is the device in use.
        """


class WeightFormat:
    """A format in which others publish weights: where they are, how their file is read, how the tensors are named.

    A format is constructed without arguments and does one or more of the following: it locates names and addresses
    (`locates`, `locate`), reads files (`suffixes`, `read`), or converts weights (`matches`, `convert`).
    """

    suffixes: ClassVar[tuple[str, ...]] = ()
    """Suffixes of the files it reads, in lower case with the dot: ``.npz``."""
    values_only: ClassVar[tuple[type[nn.Module], ...]] = ()
    """Modules whose parameter names its weights already have: only values change, such as the order of channels. For
    these it is consulted even if all names fit; if the names are inconclusive, the report mentions it."""

    def locates(self, source: str) -> bool:
        """Tell whether `locate` handles this name, address or folder."""
        return False

    def locate(self, source: str) -> Path:
        """Return the local file of a name, address or folder; raise `CheckpointError` when it cannot be obtained."""
        return Path(source)

    def read(self, path: Path) -> Mapping[str, Any]:
        """Return the content of a file that `torch.load` with ``weights_only`` does not read: tensors by name, or the
        entries of a checkpoint, on the CPU. Never runs code from it; raises `CheckpointError` if it is damaged."""
        raise NotImplementedError

    def arrange(self, content: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the entries of a checkpoint of another tool, with its weights in ``state_dict`` and its classes in
        ``meta``; any other content unchanged. Called for files of every format."""
        return content

    def describe(self, path: Path) -> Mapping[str, Any]:
        """Return ``meta`` of a file of weights, such as classes and config, from other files in its folder; `read` and
        `arrange` override it. Called for files of every format."""
        return {}

    def matches(self, module: nn.Module, keys: Collection[str]) -> bool:
        """Tell whether weights with these names are of this format and for such a ``module``."""
        return False

    def convert(self, module: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights under the names and in the shapes of ``module``; entries without counterpart may stay."""
        return weights
