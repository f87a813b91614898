"""`DistillationHook`: the model also learns from the predictions of a trained one, its teacher.

    hooks:
      - {type: DistillationHook, teacher: work_dirs/large/20261129_120000}

Distilling the Knowledge in a Neural Network, Hinton et al., 2015 (https://arxiv.org/abs/1503.02531);
Channel-wise Knowledge Distillation for Dense Prediction, Shu et al., 2021 (https://arxiv.org/abs/2011.13256).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from segkernel.annotations import FileName, Positive
from segkernel.errors import UsageError
from segkernel.hookspecs import Priority, hookimpl
from segkernel.interfaces.model import PixelClasses, Segmentor
from segkernel.nn import resize
from segkernel.sample import Targets

if TYPE_CHECKING:
    from segkernel.hookspecs import Run
    from segkernel.loading import LoadedModel

log = logging.getLogger(__name__)

Over = Literal["channels", "pixels"]


class DistillationHook:
    """Add to the loss the divergence between the predictions of the model and of a trained one, in training only.

    The teacher gets the same augmented images. Its logits are resized to the model's. It is not saved with the model.

    Args:
        teacher: A run directory, a checkpoint, or the name of a zoo model with published weights, for the same classes;
            with ``weights`` a config.
        weights: A checkpoint for the config.
        weight: Factor of the loss, `distillation_loss`.
        temperature: Logits are divided by it.
        over: ``channels`` compares where each class is, ``pixels`` the class probabilities of each pixel.

    Raises:
        UsageError: When training begins, if the teacher has no weights, other classes or another normalisation.
    """

    priority = Priority.HIGH
    conformance: ClassVar = {"teacher": "work_dirs/large/20261129_120000"}

    def __init__(
        self,
        teacher: FileName,
        weights: FileName | None = None,
        weight: Positive = 3.0,
        temperature: Positive = 4.0,
        over: Over = "channels",
    ) -> None:
        self.source, self.weights = teacher, weights
        self.weight, self.temperature, self.over = weight, temperature, over
        self._before: dict[str, Any] = {}

    @hookimpl
    def before_train(self, run: Run) -> None:
        from segkernel.loading import load_model

        loaded = load_model(self.source, self.weights)
        self._check(loaded, run)
        self.teacher: Segmentor = loaded.model.to(run.engine.device).eval().requires_grad_(False)
        self.model, self._before = run.model, {key: vars(run.model)[key] for key in ("loss",) if key in vars(run.model)}
        self.loss_of_labels = run.model.loss
        run.model.loss = self.loss  # type: ignore[method-assign]
        log.info("learning from %s as well", self.source)

    @hookimpl
    def after_train(self, run: Run) -> None:
        """Restore the model's own loss."""
        if vars(run.model).get("loss") == self.loss:
            del run.model.loss
            vars(run.model).update(self._before)

    def loss(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Return the model's losses, and in training the teacher's."""
        if not self.model.training:
            return self.loss_of_labels(images, targets)
        if self.model.one_pass:
            raw, losses = self.model.predict_with_loss(images, targets)
        else:
            raw, losses = self.model.predict(images), self.loss_of_labels(images, targets)
        with torch.no_grad():
            wanted = self.teacher.predict(images)["seg"]
        found = distillation_loss(raw["seg"], wanted, self.temperature, self.over)
        return {**losses, "distill.loss_kl": self.weight * found}

    def _check(self, loaded: LoadedModel, run: Run) -> None:
        if loaded.random:
            raise UsageError(f"DistillationHook: {self.source} has no weights to learn from")
        for model, name in ((run.model, "the model"), (loaded.model, str(self.source))):
            output = getattr(model, "outputs", {}).get("seg")
            if not isinstance(output, PixelClasses) or (self.over == "pixels" and output.activation != "softmax"):
                kind = "softmax over classes" if self.over == "pixels" else "classes of pixels"
                raise UsageError(f"DistillationHook(over={self.over}): {name} does not predict {kind}")
        classes = tuple(loaded.meta.get("classes") or ())
        if classes != tuple(run.labels.classes):
            raise UsageError(
                f"DistillationHook: {self.source} has other classes: {', '.join(classes[:8]) or 'unknown'}"
            )
        own = run.preprocessor.config()  # type: ignore[attr-defined]
        given = {key: value for key, value in (loaded.meta.get("preprocess") or {}).items() if key in _NORMALISATION}
        if wrong := [key for key, value in given.items() if _plain(value) != _plain(own.get(key, value))]:
            text = ", ".join(f"{key}: {given[key]}" for key in wrong)
            raise UsageError(f"DistillationHook: {self.source} needs other images, data.preprocess {text}")


_NORMALISATION = ("mean", "std", "channel_order")


def distillation_loss(logits: Tensor, wanted: Tensor, temperature: float = 4.0, over: Over = "channels") -> Tensor:
    """Return the divergence KL(teacher || student), times the temperature squared.

    Args:
        logits: (N, K, h, w) of the student.
        wanted: (N, K, H, W) of the teacher; resized to the student's.
        temperature: Above 0; a higher one weighs small logits more.
        over: ``channels`` takes the softmax over the pixels of each channel and the mean over channels and images,
            ``pixels`` the softmax over the classes of each pixel and the mean over pixels and images.
    """
    wanted = resize(wanted.float(), logits.shape[2:])
    student, teacher = (each.float().flatten(2) / temperature for each in (logits, wanted))
    axis, others = (2, 1) if over == "channels" else (1, 2)
    divergence = kl_div(student.log_softmax(axis), teacher.log_softmax(axis), reduction="sum", log_target=True)
    return divergence * temperature**2 / (len(logits) * student.shape[others])


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value
