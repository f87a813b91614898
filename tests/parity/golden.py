"""Golden cases: outputs of MMSegmentation 1.2.2 for models with known weights, and the comparison with our outputs.

A case is NAME.json (the model, losses, gradient norms, facts) and NAME.npz (scores, label maps, and in a packed copy
the table of state-dict keys).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import golden_weights
import numpy as np
import torch
from golden_names import translate
from torch import Tensor, nn

from segkernel import build
from segkernel.inference import infer
from segkernel.interfaces.model import Segmentor
from segkernel.sample import Targets
from segplug_deploy.labels import FastPixelClasses

SCORES, LOSSES, GRADIENTS, LABELS = 1e-4, 1e-4, 1e-3, 1e-3
"""Tolerances: relative to the largest score, to max(1, loss), to a norm, and as a fraction of the pixels."""
SAMPLED = 1e-2
"""Minimum tolerance of losses at random points, relative to max(1, loss), and tolerance of their gradients."""
LISTED = 200
"""Length to which the reference truncated its list of parameters without gradient."""
Table = dict[str, tuple[tuple[int, ...], str]]


@dataclass
class Golden:
    """One case.

    Args:
        name: Published name of the model.
        facts: Content of the JSON file.
        arrays: Content of the .npz file.
        keys: {state-dict key: (shape, dtype)}.
    """

    name: str
    facts: dict[str, Any]
    arrays: dict[str, np.ndarray]
    keys: Table = field(repr=False)

    @classmethod
    def load(cls, path: Path) -> Golden:
        """Read a case, full or packed."""
        facts = json.loads(path.read_text())
        with np.load(path.with_suffix(".npz")) as stored:
            arrays = dict(stored)
        table = facts.pop("state_dict", None)
        if table is None:
            keys = unpack_keys(arrays.pop("state_dict"))
        else:
            keys = {key: (tuple(entry["shape"]), entry["dtype"].removeprefix("torch.")) for key, entry in table.items()}
        return cls(path.stem, facts, arrays, keys)

    def build(self) -> Segmentor:
        """Build our model from the reference's config, with the golden weights, in eval mode."""
        with uninitialised():
            model = build("segmentors", model_config(self.facts["model"]))
        model.load_state_dict(golden_weights.fill(model.state_dict()), strict=True)
        return model.eval()

    @cached_property
    def images(self) -> Tensor:
        """Return the input."""
        return golden_weights.inputs(tuple(self.facts["input_shape"]))

    def targets(self) -> Targets:
        """Return the labels, and the borders that PIDNet learns."""
        batch, _, height, width = self.facts["input_shape"]
        band = "left 10 columns" in self.facts.get("labels", "left 10 columns")
        labels = golden_weights.labels(self.facts["num_classes"], batch, height, width, band=band)
        return Targets({"seg": labels, "edge": golden_weights.edges(batch, height, width)})


@dataclass
class Report:
    """Result of a comparison: the largest difference of each kind as a fraction of its tolerance, and all failures."""

    worst: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def compare(self, kind: str, what: str, difference: float, allowed: float) -> None:
        """Record a difference; NaN fails."""
        share = difference / allowed
        self.worst[kind] = max(self.worst.get(kind, 0.0), share)
        if not share <= 1:
            self.failures.append(f"{what} differs by {difference:.2e}, allowed {allowed:.0e}")

    def require(self, holds: bool, message: str) -> None:
        """Record a failure unless ``holds``."""
        if not holds:
            self.failures.append(message)


@contextmanager
def uninitialised() -> Iterator[None]:
    """Disable weight initialisation, half of the work of a large model: golden weights replace all of them."""
    functions = {name: value for name, value in vars(nn.init).items() if name.endswith("_") and callable(value)}
    try:
        for name in functions:
            setattr(nn.init, name, lambda tensor, *arguments, **more: tensor)
        yield
    finally:
        for name, function in functions.items():
            setattr(nn.init, name, function)


def find(folder: Path) -> Iterator[Path]:
    """Yield the cases at or below a folder, sorted."""
    yield from (path for path in sorted(folder.rglob("*.json")) if path.with_suffix(".npz").is_file())


def model_config(reference: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the reference's model config; the preprocessor is not part of our models."""
    return translate({key: value for key, value in reference.items() if key != "data_preprocessor"})


def check(case: Golden, inference: bool = True, gradients: bool = True, frozen: Sequence[str] = ()) -> Report:
    """Compare our model with a case: keys, raw scores, losses; and, the most expensive parts, inference and gradients.

    Gradients of ``frozen`` parts, such as ``backbone``, are not compared.
    """
    report = Report()
    model = case.build()
    compute_once(model)
    check_keys(model, case, report)
    for name in frozen:
        model.get_submodule(name).requires_grad_(False)
    if not report.failures:
        check_raw_scores(model, case, report)
        if inference:
            check_inference(model, case, report)
        if gradients:
            check_losses(model, case, report, frozen)
        else:
            with torch.no_grad():
                compare_losses(model, case, report)
    return report


def compute_once(model: Any) -> None:
    """Let scores and losses of the same images share features and logits, which saves a forward pass."""
    if hasattr(model, "extract_feat"):
        model.extract_feat = remembering(model.extract_feat)
    model.decode_head.forward = remembering(model.decode_head.forward)


def remembering(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that caches its last result and returns it for the same objects."""
    last: dict[str, tuple] = {}

    def remembered(*given: Any) -> Any:
        if "given" not in last or not all(a is b for a, b in zip(last["given"], given, strict=True)):
            last.update(given=given, answer=(function(*given),))
        return last["answer"][0]

    return remembered


def check_keys(model: Segmentor, case: Golden, report: Report) -> None:
    """Compare keys, shapes and types of the state dict, and the number of parameters."""
    ours: Table = {key: (tuple(v.shape), str(v.dtype).removeprefix("torch.")) for key, v in model.state_dict().items()}
    for kind, keys in (("missing", case.keys.keys() - ours.keys()), ("unexpected", ours.keys() - case.keys.keys())):
        report.require(not keys, f"{len(keys)} {kind} keys: {', '.join(sorted(keys)[:4])}")
    for key in ours.keys() & case.keys.keys():
        report.require(ours[key] == case.keys[key], f"{key} is {ours[key]}, not {case.keys[key]}")
    for name, trainable in (("num_params", False), ("num_trainable_params", True)):
        count = sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable)
        report.require(count == case.facts[name], f"{name}: {count}, not {case.facts[name]}")


@torch.no_grad()
def check_inference(model: Segmentor, case: Golden, report: Report) -> None:
    """Compare the label maps of whole and sliding-window inference."""
    images = case.images
    check_fast_labels(model, images, report)  # while its logits are cached
    for name, test_cfg in (("pred", {"mode": "whole"}), ("pred_slide", case.facts.get("slide_test_cfg"))):
        if name in case.arrays:
            torch.manual_seed(0)
            scores = infer(model.predict, images, model.outputs, test_cfg)["seg"]
            labels = torch.stack([model.outputs["seg"].decode(image) for image in scores.split(1)])
            _compare_labels(scores, labels, name, case, report)
            if f"seg_logits_{name}" in case.arrays:
                _compare_scores(scores, f"seg_logits_{name}", case, report)


def check_fast_labels(model: Segmentor, images: Tensor, report: Report) -> None:
    """Compare the labels that are computed without logits at the size of the images, also of another original size."""
    plain, size = model.outputs["seg"], (images.shape[2], images.shape[3])
    torch.manual_seed(0)
    raw = model.predict(images)["seg"]
    for original in (size, (size[0] + 13, size[1] - 7)):
        both = (output.finish(raw[:1], size, size, original) for output in (FastPixelClasses(**vars(plain)), plain))
        report.require(torch.equal(*both), f"fast labels at {original} are not those of the logits")


def check_raw_scores(model: Segmentor, case: Golden, report: Report) -> None:
    """Compare the forward pass."""
    torch.manual_seed(0)
    for name, scores in raw_scores(model, case.images, case).items():
        _compare_scores(scores, name, case, report)


def raw_scores(model: Any, images: Tensor, case: Golden) -> dict[str, Tensor]:
    """Return the tensors that the reference stored as ``logits``: of the forward pass, or where it fails of inference.

    The first of several ``logits_i`` is the main output; for query heads all of them are compared.
    """
    origin = case.facts.get("logits_from", "")
    if origin.startswith("decode_head"):
        classes, masks = model.decode_head.queries(model.extract_feat(images))
        outputs = [*masks, *classes] if "(mask_props, mask_logits)" in origin else [*classes, *masks]
        return {f"logits_{i}": scores for i, scores in enumerate(outputs)}
    if origin.startswith("encode_decode"):
        return {"logits": infer(model.predict, images, model.outputs, {"mode": "whole"})["seg"]}
    return {"logits" if "logits" in case.arrays else "logits_0": model(images)}


def check_losses(model: Segmentor, case: Golden, report: Report, frozen: Sequence[str] = ()) -> None:
    """Compare losses in eval mode, and the norms of their gradients except in ``frozen`` parts."""
    _backward(compare_losses(model, case, report))
    without = {name for name, p in model.named_parameters() if p.grad is None}
    expected_without = set(case.facts["params_without_grad"])
    without |= {name for name in expected_without if _is_in(name, frozen)}
    expected_without |= {name for name in without if _is_in(name, frozen)}
    differ = expected_without - without if len(expected_without) == LISTED else expected_without ^ without
    names = ", ".join(sorted(differ)[:4])
    report.require(not differ, f"{len(differ)} parameters differ in whether they have a gradient: {names}")
    check_gradients(model, case, report, frozen)


def _is_in(name: str, parts: Sequence[str]) -> bool:
    return name.partition(".")[0] in parts


def compare_losses(model: Segmentor, case: Golden, report: Report) -> Mapping[str, Tensor]:
    """Compare losses in eval mode, and return ours."""
    torch.manual_seed(0)
    losses = model.loss(case.images, case.targets())
    expected = case.facts["losses"]
    report.require(losses.keys() == expected.keys(), f"losses {sorted(losses)}, not {sorted(expected)}")
    for name in losses.keys() & expected.keys():
        difference = abs(losses[name].item() - expected[name])
        report.compare("losses", name, difference, allowed_loss(case, name))
    return losses


def check_gradients(model: Segmentor, case: Golden, report: Report, frozen: Sequence[str] = ()) -> None:
    """Compare the norms of gradients; if one exceeds its tolerance, twice our rounding error is added to all.

    Rounding matters in networks with activations in the thousands, whose ReLUs flip; the reference is 2e-3 off there.
    """
    expected = {**case.facts["grad_norm"], **case.facts["grad_norm_params"]}
    expected = {name: norm for name, norm in expected.items() if not _is_in(name, frozen)}
    sampled = "losses_other_seeds" in case.facts
    allowed = {name: (SAMPLED if sampled else GRADIENTS) * max(norm, 1e-6) for name, norm in expected.items()}
    ours = {name: _gradient_norm(model, name) for name in expected}
    if not sampled and any(not abs(ours[name] - norm) <= allowed[name] for name, norm in expected.items()):
        model.double().zero_grad()
        _backward(model.loss(case.images.double(), case.targets()))
        exact = {name: _gradient_norm(model, name) for name in expected}
        allowed = {name: value + 2 * abs(ours[name] - exact[name]) for name, value in allowed.items()}
    for name, norm in expected.items():
        report.compare("gradients", f"gradient of {name}", abs(ours[name] - norm), allowed[name])


def allowed_loss(case: Golden, name: str) -> float:
    """Return the tolerance of a loss, or of an accuracy in percent."""
    if "acc_seg" in name:
        return 100 * LABELS
    expected = case.facts["losses"][name]
    others = [losses[name] for losses in case.facts.get("losses_other_seeds", {}).values()]
    spread = max((abs(other - expected) for other in others), default=0.0)
    return max(spread, (SAMPLED if spread else LOSSES) * max(1.0, abs(expected)))


def _backward(losses: Mapping[str, Tensor]) -> None:
    sum(value for name, value in losses.items() if "loss" in name).backward()  # type: ignore[union-attr]


def _gradient_norm(model: Segmentor, name: str) -> float:
    """Return the norm of the gradient of a parameter, or of all parameters of a module.

    As in the reference, a parameter's norm is computed in float32, which is 6e-4 off for ten million values.
    """
    named = dict(model.named_parameters())
    if name in named:
        gradient = named[name].grad
        return 0.0 if gradient is None else float(gradient.norm())
    below = [p.grad for key, p in named.items() if key.startswith(f"{name}.") and p.grad is not None]
    return float(sum(torch.linalg.vector_norm(gradient, dtype=torch.float64) ** 2 for gradient in below)) ** 0.5


def _compare_scores(scores: Tensor, name: str, case: Golden, report: Report) -> None:
    expected = case.arrays[name]
    stride = case.facts["logits_stride"][name]
    ours = scores.detach()[..., ::stride, ::stride].float().numpy()
    if ours.shape != expected.shape:
        report.failures.append(f"{name} has the shape {ours.shape}, not {expected.shape}")
        return
    report.compare("scores", name, float(np.abs(ours - expected).max() / np.abs(expected).max()), SCORES)


def _compare_labels(scores: Tensor, labels: Tensor, name: str, case: Golden, report: Report) -> None:
    """Compare label maps except where the two best scores are nearly equal."""
    best = scores.topk(2, 1).values if scores.shape[1] > 1 else torch.cat([scores, scores * 0 + np.inf], 1)
    clear = ((best[:, 0] - best[:, 1]).abs() > SCORES * scores.abs().max()).numpy()
    wrong = (labels.numpy() != case.arrays[name]) & clear
    report.compare("labels", name, float(wrong.mean()), LABELS)


def pack_keys(table: Table) -> np.ndarray:
    """Return a table of keys as bytes, which compress well in an .npz."""
    lines = [f"{key} {'x'.join(map(str, shape)) or '-'} {dtype}" for key, (shape, dtype) in table.items()]
    return np.frombuffer("\n".join(lines).encode(), np.uint8)


def unpack_keys(packed: np.ndarray) -> Table:
    """Undo `pack_keys`."""
    rows = (line.split(" ") for line in packed.tobytes().decode().splitlines())
    return {key: (tuple(map(int, re.findall(r"\d+", shape))), dtype) for key, shape, dtype in rows}
