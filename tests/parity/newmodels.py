"""Golden cases of models that MMSegmentation never had, computed by transformers, timm, smp and the authors' code.

    case = load("dinov2_small_hf")
    model = case.load_into(DINOv2("small"))          # the reference's weights through our weight formats, strictly
    outputs = model(case.images)
    assert case.failures(case.named(outputs), model=model) == []

The packed copies in ``newmodels/`` hold a few values of each output, and a projection of all of them (the fingerprint);
``SEGKERNEL_NEWMODELS`` is a folder of the full cases. Pack with ``python tests/parity/newmodels.py FOLDER``.
"""

from __future__ import annotations

import json
import os
import sys
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import golden_weights
import numpy as np
import torch
from golden import Table, pack_keys, unpack_keys
from torch import Tensor, nn
from torch.nn import functional as F

from segkernel.weights import convert

M = TypeVar("M", bound=nn.Module)
PACKED = Path(__file__).parent / "newmodels"
OUTPUTS, FINGERPRINT, LOSSES, GRADIENTS, LABELS = 2e-5, 1e-4, 1e-4, 1e-3, 1e-3
"""Tolerances: relative to the largest value, to the root mean square, to max(1, loss), to a norm, and of the pixels."""
FACTS = (
    "family", "framework", "build", "input_shape", "num_classes", "num_params", "constants", "shared_tensors",
    "norm_gain", "outputs", "logits_stats", "logits_stride", "scores_stats", "losses", "grad_norm_total",
    "params_without_grad", "checkpoint_keys", "norms", "activations",
)  # fmt: skip
SAMPLES = 256
"""Values of an output that a packed case keeps, at most."""


@dataclass
class Case:
    """One case.

    Args:
        name: Model, size and framework.
        facts: ``build`` has the reference's constructor arguments, ``outputs`` the names of its outputs.
        arrays: Values of the outputs, label maps, and weights that are not drawn (``const:KEY``).
        keys: {the reference's state-dict key: (shape, dtype)}.
    """

    name: str
    facts: dict[str, Any]
    arrays: dict[str, np.ndarray]
    keys: Table = field(repr=False)

    @property
    def outputs(self) -> list[str]:
        """Return the names of the reference's outputs, in order."""
        return self.facts["outputs"]

    @cached_property
    def images(self) -> Tensor:
        """Return the normalised input."""
        return golden_weights.inputs(tuple(self.facts["input_shape"]))

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """Return the reference's state dict."""
        state = {key: torch.zeros(shape, dtype=getattr(torch, dtype)) for key, (shape, dtype) in self.keys.items()}
        for key in self.facts["constants"]:
            if f"const:{key}" in self.arrays:
                state[key] = torch.from_numpy(self.arrays[f"const:{key}"]).to(state[key].dtype)
        filled = golden_weights.fill(state, self.facts["constants"], self.facts.get("norm_gain", 1.0))
        for first, *others in self.facts["shared_tensors"]:
            filled |= dict.fromkeys(others, filled[first])
        return filled

    def file(self) -> dict[str, Tensor]:
        """Return the reference's weights by their names in a published file, which transformers changes on loading."""
        names = self.facts.get("checkpoint_keys", {})
        return {names.get(key, key): value for key, value in self.weights.items()}

    def load_into(self, model: M, from_file: bool = False) -> M:
        """Convert the reference's weights by our weight formats, load them strictly, and switch to evaluation.

        Weights that the model does not have must be parts of the reference that its outputs do not use.

        Args:
            model: Our model.
            from_file: Take the names of a published file.
        """
        converted = convert(model, self.file() if from_file else self.weights).weights
        own = model.state_dict()
        unused = {key for key in converted.keys() - own.keys() if key not in self.facts["params_without_grad"]}
        assert not unused, f"no place for {sorted(unused)[:8]}"
        model.load_state_dict(OrderedDict((key, value) for key, value in converted.items() if key in own), strict=True)
        # Some modules cache a table of their weights when they are switched to evaluation.
        return model.train().eval()

    def named(self, maps: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return feature maps (N, C, H, W) by the names of the reference's outputs, as (N, H, W, C) where its are."""
        shapes = (self.facts["logits_stats"][name]["shape"] for name in self.outputs)
        turned = (x if list(x.shape) == shape else x.permute(0, 2, 3, 1) for x, shape in zip(maps, shapes, strict=True))
        return dict(zip(self.outputs, turned, strict=True))

    def failures(
        self, outputs: Mapping[str, Tensor], scores: Tensor | None = None, model: nn.Module | None = None
    ) -> list[str]:
        """Compare outputs, and what follows from them; return what differs by more than the tolerance.

        Args:
            outputs: By the reference's names; those left out are not compared.
            scores: Of each class at the input's size; computed from the output ``logits`` by default.
            model: Compares the gradient norm of all parameters, too; the outputs need their graph.
        """
        found = [failure for name in outputs for failure in self._output(name, outputs[name].detach())]
        if scores is None and "logits" in outputs and "scores_stats" in self.facts:
            size = self.facts["scores_stats"]["shape"][2:]
            scores = F.interpolate(outputs["logits"], size, mode="bilinear", align_corners=False)
        if scores is not None:
            found += self._scores(scores.detach())
        if scores is not None or list(outputs) == self.outputs:
            found += self._loss(self._scalar(outputs, scores), model)
        return found

    def _output(self, name: str, ours: Tensor) -> list[str]:
        statistics, stride = self.facts["logits_stats"][name], self.facts["logits_stride"][name]
        if list(ours.shape) != statistics["shape"]:
            return [f"{name} has the shape {list(ours.shape)}, not {statistics['shape']}"]
        theirs = self.arrays[name]
        seen = ours[..., ::stride, ::stride] if ours.ndim > 1 else ours
        difference = float(np.abs(seen.numpy().reshape(-1)[: theirs.size] - theirs.reshape(-1)).max())
        largest = max(abs(statistics["min"]), abs(statistics["max"]))
        return [
            *_exceeded(name, difference / largest, OUTPUTS),
            *_exceeded(f"fingerprint of {name}", _fingerprint_error(ours, statistics), FINGERPRINT),
        ]

    def _scores(self, scores: Tensor) -> list[str]:
        found = _exceeded("fingerprint of scores", _fingerprint_error(scores, self.facts["scores_stats"]), FINGERPRINT)
        if "pred" in self.arrays:
            equal = float((scores.argmax(1).numpy() == self.arrays["pred"]).mean())
            found += _exceeded("labels", 1 - equal, LABELS)
        return found

    def _scalar(self, outputs: Mapping[str, Tensor], scores: Tensor | None) -> Tensor:
        """Return what the reference took gradients of."""
        if "cross_entropy" not in self.facts["losses"]:
            loss = torch.zeros(())
            for index, name in enumerate(self.outputs):
                if name.startswith("pos_"):
                    continue  # position encodings, which have no gradient
                probe = golden_weights.gradient_probe(index, tuple(outputs[name].shape))
                loss = loss + (outputs[name] * probe).mean()
            return loss
        assert scores is not None
        batch, _, height, width = scores.shape
        labels = golden_weights.labels(self.facts["num_classes"], batch, height, width)
        return F.cross_entropy(scores, labels, ignore_index=255)

    def _loss(self, loss: Tensor, model: nn.Module | None) -> list[str]:
        (name, expected), *_ = self.facts["losses"].items()
        found = _exceeded(name, abs(loss.item() - expected) / max(1.0, abs(expected)), LOSSES)
        if model is not None:
            parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            squares = sum(float(gradient.double().square().sum()) for gradient in gradients if gradient is not None)
            total = self.facts["grad_norm_total"]
            found += _exceeded("gradient norm", abs(squares**0.5 - total) / total, GRADIENTS)
        return found


def load(name: str) -> Case:
    """Return a case: the full one where ``SEGKERNEL_NEWMODELS`` is set, otherwise the packed copy."""
    full = sorted(Path(os.environ.get("SEGKERNEL_NEWMODELS", PACKED)).rglob(f"{name}.json"))
    if full:
        facts = json.loads(full[0].read_text())
        with np.load(full[0].with_suffix(".npz")) as stored:
            arrays = dict(stored)
        keys = {key: (tuple(v["shape"]), v.get("dtype", "float32")) for key, v in facts.pop("state_dict").items()}
        return Case(name, facts, arrays, keys)
    with np.load(PACKED / f"{name}.npz") as stored:
        arrays = dict(stored)
    return Case(name, json.loads(arrays.pop("facts").tobytes()), arrays, unpack_keys(arrays.pop("state_dict")))


def pack(name: str, folder: Path = PACKED) -> None:
    """Write the small copy of a full case."""
    case = load(name)
    facts = {key: case.facts[key] for key in FACTS if key in case.facts}
    arrays = {key: value for key, value in case.arrays.items() if key.startswith("const:")}
    arrays |= {key: case.arrays[key].reshape(-1)[:SAMPLES] for key in case.outputs}
    stored = np.frombuffer(json.dumps(facts, separators=(",", ":")).encode(), np.uint8)
    np.savez_compressed(folder / name, **arrays, facts=stored, state_dict=pack_keys(case.keys))


def _fingerprint_error(ours: Tensor, statistics: Mapping[str, Any]) -> float:
    root_mean_square = statistics["l2"] / ours.numel() ** 0.5
    return abs(golden_weights.fingerprint(ours) - statistics["fingerprint"]) / max(root_mean_square, 1e-12)


def _exceeded(what: str, difference: float, allowed: float) -> list[str]:
    """Return a failure unless the difference is allowed; NaN is not."""
    return [] if difference <= allowed else [f"{what} differs by {difference:.2e}, allowed {allowed:.0e}"]


if __name__ == "__main__":
    os.environ["SEGKERNEL_NEWMODELS"] = sys.argv[1]
    PACKED.mkdir(exist_ok=True)
    for path in sorted(Path(sys.argv[1]).glob("*/*.npz")):
        pack(path.stem)
