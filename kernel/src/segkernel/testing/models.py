"""Checks of backbones, necks, heads and segmentors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from segkernel.interfaces.model import Backbone, CascadeHead, Head, PixelMap
from segkernel.labels import IGNORE
from segkernel.sample import Targets
from segkernel.signature import signature
from segkernel.testing.core import Subject, check, require, skip_unless
from segkernel.testing.transforms import random_state

KINDS = ("backbones", "necks", "heads", "segmentors")
BATCH = 2
Size = tuple[int, int]


@dataclass
class Probe:
    """A new module in eval mode, its inputs, and the image size that these correspond to."""

    module: Any
    inputs: tuple[Any, ...]
    size: Size

    def __call__(self) -> list[Tensor]:
        """Return the outputs in one list."""
        return _tensors(self.module(*self.inputs))

    def targets(self) -> Targets:
        """Return labels for the inputs, a few of them ignored, or ``targets`` of the ``conformance_inputs``."""
        if make := getattr(self.module, "conformance_inputs", {}).get("targets"):
            return make(self.size)
        labels = torch.randint(0, _classes(self.module), (BATCH, *self.size), generator=_generator(2))
        labels[:, :2] = IGNORE
        return Targets({"seg": labels, "depth": labels.float()})

    def losses(self) -> dict[str, Tensor]:
        """Return the losses of a training step."""
        self.module.train()
        return self.module.loss(*self.inputs, self.targets())


def probe(subject: Subject, size: Size | None = None, seed: int = 0, **more: Any) -> Probe:
    """Build the subject with random values from ``seed``, and its inputs, which are always the same."""
    size = size or tuple(subject.inputs.get("size", (64, 64)))
    torch.manual_seed(seed)
    module = subject.build(**more).eval()
    if subject.group in ("backbones", "segmentors"):
        channels = {"in_channels": subject.inputs.get("channels", 3), **subject.arguments, **more}["in_channels"]
        return Probe(module, (torch.randn(BATCH, channels, *size, generator=_generator(1)),), size)
    generator = _generator(1)
    if "make" in subject.inputs:
        return Probe(module, (subject.inputs["make"](module, size, generator),), size)
    shapes = [(channels, *_cells(size, stride)) for channels, stride in _maps(subject, module)]
    features = [torch.randn(BATCH, *shape, generator=generator) for shape in shapes]
    if not isinstance(module, CascadeHead):
        return Probe(module, (features,), size)
    previous = torch.randn(BATCH, _classes(module), *features[0].shape[-2:], generator=generator)
    return Probe(module, (features, previous), size)


@check(*KINDS, name="precision")
def precision(subject: Subject) -> None:
    """Parameters and buffers are in single precision, or integers."""
    module = subject.build()
    tensors = [*module.named_parameters(), *module.named_buffers()]
    double = [name for name, value in tensors if value.dtype == torch.float64]
    require(not double, f"float64, which other layers do not take: {', '.join(double[:4])}; convert with .float()")


@check("backbones", name="outputs")
def backbone_outputs(subject: Subject) -> None:
    """Number, channels and strides of the maps are as declared, at 64 and at 224 pixels."""
    for length in (64, 224):
        _check_maps(probe(subject, (length, length)))


@check("backbones", name="order")
def backbone_order(subject: Subject) -> None:
    """The finest map comes first."""
    strides = subject.build().strides
    require(list(strides) == sorted(strides), f"strides are {strides}")


@check("backbones", name="in-channels")
def backbone_in_channels(subject: Subject) -> None:
    """It can be built for images of 1, 3 and 4 channels."""
    skip_unless("in_channels" in signature(subject.target), "no argument in_channels")
    for channels in (1, 3, 4):
        _check_maps(probe(subject, in_channels=channels))


@check("necks", name="outputs")
def neck_outputs(subject: Subject) -> None:
    """The outputs are maps of the batch."""
    for maps in probe(subject)():
        require(maps.ndim == 4 and len(maps) == BATCH, f"an output has the shape {tuple(maps.shape)}")


@check("heads", name="classes")
def head_classes(subject: Subject) -> None:
    """Logits are (N, K, h, w) for K of 1, 2 and 19, and ``output`` agrees."""
    for classes in (1, 2, 19):
        case = probe(subject, num_classes=classes)
        (logits,) = case()
        fits = logits.ndim == 4 and logits.shape[1] == classes
        require(fits, f"logits have the shape {tuple(logits.shape)}, not (N, {classes}, h, w)")
        require(case.module.output.out_channels == classes, f"num_classes={classes}, output is {case.module.output}")


@check("segmentors", name="outputs")
def segmentor_outputs(subject: Subject) -> None:
    """``forward`` returns the main output, ``predict`` all that ``outputs`` declares."""
    case = probe(subject)
    outputs = case.module.outputs
    require("seg" in outputs, f"no output is called 'seg': {sorted(outputs)}")
    (logits,) = case()
    predicted = case.module.predict(*case.inputs)
    require(not case.module.training, "predict left the model in training mode")
    require(set(predicted) == set(outputs), f"predict returns {sorted(predicted)}, outputs declares {sorted(outputs)}")
    for name, value in predicted.items():
        require(len(value) == BATCH, f"{name!r} has {len(value)} entries for {BATCH} images")
        if isinstance(outputs[name], PixelMap):
            expected, found = outputs[name].out_channels, tuple(value.shape)
            require(found[:2] == (BATCH, expected), f"{name!r} has the shape {found}, not (N, {expected}, ...)")
    if isinstance(outputs["seg"], PixelMap):
        require(logits.shape[1] == outputs["seg"].out_channels, f"forward returns {logits.shape[1]} channels")
    defaults = {name: parameter.default for name, parameter in signature(subject.target).items()}
    asked, classes = {**defaults, **subject.arguments}.get("num_classes"), outputs["seg"].classes
    require(asked in (None, classes), f"num_classes={asked}, but the output 'seg' has {classes} classes")


@check("heads", "segmentors", name="logits")
@torch.no_grad()
def logits(subject: Subject) -> None:
    """``predict`` returns logits, which are activated later, once."""
    case = probe(subject)
    predicted = case.module.predict(*case.inputs)
    for name, output in _outputs(case.module).items():
        if getattr(output, "activation", None) not in ("softmax", "sigmoid"):
            continue
        values = predicted if isinstance(case.module, Head) else predicted[name]
        in_range = bool((values >= 0).all() and (values <= 1).all())
        sums_to_one = values.shape[1] > 1 and bool(values.logsumexp(1).abs().max() < 1e-4)
        message = f"{name!r} is already normalised: predict returns logits, and {output.activation} is applied later"
        require(not in_range and not sums_to_one, message)


@check(*KINDS, name="odd-size")
def odd_size(subject: Subject) -> None:
    """Images of 65 x 97 pixels pass."""
    case = probe(subject, (65, 97))
    if isinstance(case.module, Backbone):
        _check_maps(case)
    for value in case():
        require(torch.isfinite(value).all(), "outputs are not finite")


@check("heads", "segmentors", name="loss")
def loss(subject: Subject) -> None:
    """``loss`` returns finite scalars, at least one of them a loss with a gradient."""
    losses = probe(subject).losses()
    require(isinstance(losses, Mapping), f"loss() returned {type(losses).__name__}, not a mapping")
    for name, value in losses.items():
        require(value.numel() == 1, f"{name!r} has the shape {tuple(value.shape)}, not a scalar")
        require(torch.isfinite(value).all(), f"{name!r} is {value.item()}")
    require(any("loss" in name for name in losses), f"no key contains 'loss': {sorted(losses)}")


@check("heads", "segmentors", name="all-ignored")
def all_ignored(subject: Subject) -> None:
    """A batch without labels has a loss of zero."""
    case = probe(subject)
    activation = getattr(_outputs(case.module)["seg"], "activation", "none")
    skip_unless(activation != "none", "its output is not a map of class logits")
    targets = case.targets()
    targets["seg"].fill_(IGNORE)
    case.module.train()
    losses = case.module.loss(*case.inputs, targets)
    counted = {name: value.item() for name, value in losses.items() if "loss" in name and value != 0}
    require(not counted, f"with every pixel {IGNORE}, to be ignored, the losses are {counted}, not 0")


@check("heads", "segmentors", name="one-pass")
@torch.no_grad()
def one_pass(subject: Subject) -> None:
    """``predict_with_loss`` returns the results of ``predict`` and ``loss``, in eval mode."""
    case = probe(subject)
    torch.manual_seed(0)
    predicted, losses = _tensors(case.module.predict(*case.inputs)), case.module.loss(*case.inputs, case.targets())
    torch.manual_seed(0)
    again, found = case.module.predict_with_loss(*case.inputs, case.targets())
    require(_equal(_tensors(again), predicted), "predict_with_loss and predict differ")
    require(found.keys() == losses.keys(), f"predict_with_loss has the losses {sorted(found)}, loss {sorted(losses)}")
    for name, value in losses.items():
        same = torch.allclose(found[name], value, atol=1e-5, equal_nan=True)
        require(same, f"{name!r} of predict_with_loss is {found[name]}, that of loss {value}")


@check(*KINDS, name="deterministic")
def deterministic(subject: Subject) -> None:
    """In eval mode the same input has the same output."""
    case = probe(subject)
    require(_equal(case(), case()), "two calls in eval mode differ")


@check(*KINDS, name="batch-independent")
@torch.no_grad()
def batch_independent(subject: Subject) -> None:
    """In eval mode an image's output does not depend on the rest of the batch, and a batch of one works."""
    case = probe(subject)
    together = case()
    case.inputs = tuple(_map(value, lambda tensor: tensor[:1]) for value in case.inputs)
    for alone, both in zip(case(), together, strict=True):
        scale = float(both.abs().max()) or 1.0
        worst = float((alone - both[:1]).abs().max()) / scale
        require(worst < 1e-4, f"an image alone and in a batch differ by {worst:.1e} of the range")


@check(*KINDS, name="gradients")
def gradients(subject: Subject) -> None:
    """A training step reaches every trainable parameter (distributed training hangs otherwise), and nothing else."""
    case = probe(subject)
    if subject.group in ("heads", "segmentors"):
        total = sum(value for name, value in case.losses().items() if "loss" in name)
    else:
        case.module.train()
        total = sum(value.square().mean() for value in case())
    known = {id(parameter) for parameter in case.module.parameters()}
    stray = [tuple(leaf.shape) for leaf in _leaves(total) if id(leaf) not in known]
    hint = "neither saved nor moved nor trained; use nn.ModuleList for lists of modules."
    require(not stray, f"it has {len(stray)} parameters that are not registered, {hint} Shapes: {stray[:4]}")
    total.backward()  # type: ignore[union-attr]
    without = [name for name, p in case.module.named_parameters() if p.requires_grad and p.grad is None]
    require(not without, f"{len(without)} parameters get no gradient: {', '.join(without[:4])}")


@check("necks", "heads", name="trains-before")
def trains_before(subject: Subject) -> None:
    """A feature map that the outputs depend on gets a gradient, and so do the layers that produced it."""
    case = probe(subject)
    maps = _tensors(case.inputs)
    for each in maps:
        each.requires_grad_()
    outputs = case()
    sum(value.square().mean() for value in outputs).backward()  # type: ignore[union-attr]
    for index, each in enumerate(maps):
        if each.grad is None:
            with torch.no_grad():
                each.mul_(2)
            require(_equal(outputs, case()), f"the outputs depend on input {index}, which gets no gradient")


@check(*KINDS, name="state-dict")
def state_dict(subject: Subject) -> None:
    """A second instance, with other random values, that loads the state after a step has the same output."""
    first, second = probe(subject), probe(subject, seed=1)
    with torch.no_grad():
        for parameter in second.module.parameters():
            parameter.add_(1.0)
        first.module.train()(*first.inputs)
        first.module.eval()
    second.module.load_state_dict(first.module.state_dict(), strict=True)
    require(_equal(first(), second()), "outputs differ after load_state_dict: there is state outside the state dict")


@check(*KINDS, name="meta")
def meta(subject: Subject) -> None:
    """It can be built on the ``meta`` device: the constructor reads no tensor values and moves no tensor."""
    with torch.device("meta"):
        module = subject.build()
    stray = [name for name, parameter in module.named_parameters() if not parameter.is_meta]
    require(not stray, f"built on another device than requested: {', '.join(stray[:4])}")


@check(*KINDS, name="no-random")
@torch.no_grad()
def no_random(subject: Subject) -> None:
    """Eval mode draws no random numbers."""
    case = probe(subject)
    before = random_state(), torch.get_rng_state().tolist()
    case()
    require(before == (random_state(), torch.get_rng_state().tolist()), "a random number was drawn in eval mode")


@check(*KINDS, name="input-kept")
@torch.no_grad()
def input_kept(subject: Subject) -> None:
    """``forward`` does not modify its input."""
    case = probe(subject)
    before = _map(case.inputs, torch.clone)
    for training in (False, True):
        case.module.train(training)
        case()
        require(_equal(_tensors(before), _tensors(case.inputs)), "forward changed its input")


@check(*KINDS, name="autocast")
@torch.no_grad()
def autocast(subject: Subject) -> None:
    """It runs under bfloat16 autocast."""
    case = probe(subject)
    with torch.autocast("cpu", torch.bfloat16):
        require(all(torch.isfinite(value).all() for value in case()), "outputs are not finite under autocast")


def _check_maps(case: Probe) -> None:
    channels, strides = case.module.channels, case.module.strides
    require(isinstance(channels, tuple) and isinstance(strides, tuple), "channels and strides must be tuples")
    require(len(channels) == len(strides), f"{len(channels)} channels, but {len(strides)} strides")
    with torch.no_grad():
        maps = case.module(*case.inputs)
    require(isinstance(maps, tuple), f"forward returned {type(maps).__name__}, not a tuple")
    require(len(maps) == len(channels), f"{len(maps)} maps, but {len(channels)} declared")
    for index, (value, width, stride) in enumerate(zip(maps, channels, strides, strict=True)):
        shape, size = tuple(value.shape), " x ".join(map(str, case.size))
        require(shape[:2] == (BATCH, width), f"map {index} is (N, C) = {shape[:2]}, declared is {(BATCH, width)}")
        fits = all(abs(cells - length / stride) <= 1 for cells, length in zip(shape[2:], case.size, strict=True))
        require(fits, f"map {index} of a {size} image has the shape {shape}, which is not stride {stride}")


def _maps(subject: Subject, module: nn.Module) -> list[tuple[int, int]]:
    """Return (channels, stride) of the input feature maps of a neck or head."""
    if "features" in subject.inputs:
        return [tuple(pair) for pair in subject.inputs["features"]]
    channels = subject.arguments.get("in_channels", getattr(module, "in_channels", None))
    message = "no argument in_channels: declare conformance_inputs = {'features': [(channels, stride)]}"
    require(channels is not None, message)
    if isinstance(channels, int):
        index = getattr(module, "in_index", -1)
        return [(channels, 8)] * (index + 1 if isinstance(index, int) and index > 0 else 1)
    index = getattr(module, "in_index", None)
    places = list(index) if isinstance(index, Sequence) else list(range(len(channels)))
    maps = [(channels[0], 4 * 2**i) for i in range(max(places) + 1)]
    for place, width in zip(places, channels, strict=True):
        maps[place] = (width, 4 * 2**place)
    return maps


def _leaves(total: Any) -> list[Tensor]:
    """Return the leaf tensors of a result's graph."""
    seen, waiting, leaves = set(), [total.grad_fn], []
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            leaves += [node.variable] if hasattr(node, "variable") else []
            waiting += [parent for parent, _ in node.next_functions]
    return leaves


def _classes(module: Any) -> int:
    outputs = getattr(module, "outputs", None)
    return max(outputs["seg"].classes, 1) if outputs else int(getattr(module, "num_classes", 4))


def _outputs(module: Any) -> Mapping[str, Any]:
    return {"seg": module.output} if isinstance(module, Head) else module.outputs


def _cells(size: Size, stride: int) -> Size:
    return math.ceil(size[0] / stride), math.ceil(size[1] / stride)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _map(value: Any, function: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_map(entry, function) for entry in value)
    return function(value)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    values = value.values() if isinstance(value, Mapping) else value
    return [tensor for entry in values for tensor in _tensors(entry)]


def _equal(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
