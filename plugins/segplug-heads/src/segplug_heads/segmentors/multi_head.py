"""Several heads on one trunk: each has its own classes, labels, losses and output.

model:
  type: MultiHeadSegmentor
  backbone: {...}
  heads:
    seg: {type: FCNHead, num_classes: 19, ...}
    lane: {type: FCNHead, num_classes: 2, in_channels: 19, in_index: 0, ...}
  links:
    lane: [{head: seg, take: logits, join: replace}]
  weights: {lane: lane_weight}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, cast

from torch import Tensor, nn
from typing_extensions import Required, TypedDict

import segkernel.weights
from segkernel.errors import ConfigError, Problem, warn_renamed
from segkernel.interfaces.model import Backbone, CascadeHead, Features, Head, Neck, Segmentor, TestConfig
from segkernel.sample import Targets
from segplug_heads.segmentors.encoder_decoder import flattened
from segplug_heads.segmentors.plain_targets import targets_of

MAIN = "seg"
Taken = dict[tuple[str, str], Tensor]


class Link(TypedDict, total=False):
    """An input that a head takes from another.

    ``take``: its ``logits``, or the ``features`` (N, channels, h, w) before its last convolution. ``join``: ``append``
    puts the map behind those of the trunk (the head picks it with in_index -1, or together with others by its
    input_transform), ``replace`` leaves out the trunk's. ``detach`` keeps this head's gradient from the other.
    """

    head: Required[str]
    take: Literal["logits", "features", "scores"]
    join: Literal["append", "replace"]
    detach: bool


class MultiHeadSegmentor(Segmentor):
    """Images (N, C, H, W) -> logits of every head by name; ``seg`` is the main output.

    Args:
        backbone: Images to feature maps.
        heads: Heads by the name of their output; one is called ``seg``.
        neck: Feature maps to feature maps, between backbone and heads; None for none.
        labels: Label field to train each head on, by head; by default the field of the head's name.
        weights: Field of per-pixel loss weights, by head; none by default.
        links: Inputs that a head takes from others, by head; by default all heads work on the trunk in parallel.
        training_only: Heads used in training only, without an output.
        train_cfg: Not used, accepted for existing configs.
        test_cfg: Inference mode of `segkernel.inference`: whole images or sliding windows.
        pretrained: Weights to load into the backbone: a file, an address or a known name.

    Raises:
        ConfigError: No head is called ``seg``, a link names an unknown head, or links are circular.
    """

    conformance: ClassVar = {
        "backbone": {"type": "segkernel.testing.toys:ToyBackbone"},
        "heads": {
            "seg": {"type": "FCNHead", "in_channels": 16, "channels": 8, "num_classes": 4},
            "fine": {"type": "FCNHead", "in_channels": 8, "channels": 8, "num_classes": 4},
        },
        "labels": {"fine": "seg"},
        "links": {"fine": [{"head": "seg", "take": "features", "join": "append"}]},
    }

    def __init__(
        self,
        backbone: Backbone,
        heads: dict[str, Head],
        neck: Neck | None = None,
        labels: dict[str, str] | None = None,
        weights: dict[str, str] | None = None,
        links: dict[str, list[Link]] | None = None,
        training_only: Sequence[str] = (),
        train_cfg: dict[str, Any] | None = None,
        test_cfg: TestConfig | None = None,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.neck = backbone, neck
        self.heads = nn.ModuleDict(heads)
        self.labels, self.weights, self.links = labels or {}, weights or {}, links or {}
        self.training_only = tuple(training_only)
        self.train_cfg, self.pretrained = train_cfg, pretrained
        self.test_cfg: TestConfig = test_cfg or {"mode": "whole"}
        self._check()
        self.order = self._sort()
        self.outputs = {name: heads[name].output for name in heads if name not in self.training_only}
        segkernel.weights.load_pretrained(self)

    def extract_feat(self, images: Tensor) -> Sequence[Tensor]:
        """Return the feature maps of normalised images (N, C, H, W), finest first."""
        features = self.backbone(images)
        return features if self.neck is None else self.neck(features)

    def forward(self, images: Tensor) -> Tensor:
        features, logits = self.extract_feat(images), {}
        with self._recording() as taken:
            for name in self._needed([MAIN]):
                logits[name] = self.heads[name](self._inputs(name, features, taken))
        return logits[MAIN]

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        features, size, logits = self.extract_feat(images), (images.shape[2], images.shape[3]), {}
        with self._recording() as taken:
            for name in self._needed(list(self.outputs)):
                logits[name] = self._head(name).predict(self._inputs(name, features, taken), size)
        return {name: logits[name] for name in self.outputs}

    def loss(self, images: Tensor, targets: Targets | Tensor) -> dict[str, Tensor]:
        of_seg = [self._head(name) for name in self.order if self.labels.get(name, name) == "seg"]
        targets = targets_of(targets, images, *of_seg)
        features = self.extract_feat(images)
        losses = {}
        with self._recording() as taken:
            for name in self.order:
                inputs, own = self._inputs(name, features, taken), self._targets(name, targets)
                losses[name] = self._head(name).loss(inputs, own)
        return flattened(losses)

    @property
    def one_pass(self) -> bool:
        return super().one_pass and all(self._head(name).one_pass for name in self.outputs)

    def single_pass(self, images: Tensor, targets: Targets) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        features, size = self.extract_feat(images), (images.shape[2], images.shape[3])
        logits, losses = {}, {}
        with self._recording() as taken:
            for name in self.order:
                inputs, own = self._inputs(name, features, taken), self._targets(name, targets)
                if name in self.training_only:
                    losses[name] = self._head(name).loss(inputs, own)
                else:
                    logits[name], losses[name] = self._head(name).predict_with_loss(inputs, own, size=size)
        return {name: logits[name] for name in self.outputs}, flattened(losses)

    def _head(self, name: str) -> Head:
        return cast(Head, self.heads[name])

    def _inputs(self, name: str, features: Features, taken: Taken) -> Features:
        """Return the maps a head works on."""
        links = self.links.get(name, [])
        maps = [] if any(link.get("join") == "replace" for link in links) else list(features)
        for link in links:
            value = taken[link["head"], _taken_of(link)]
            maps.append(value.detach() if link.get("detach") else value)
        return maps

    def _targets(self, name: str, targets: Targets) -> Targets:
        """Return the labels of a head as ``seg``, and its pixel weights as ``weight``."""
        own = dict(targets.fields)
        for field, called in ((self.labels.get(name, name), "seg"), (self.weights.get(name), "weight")):
            if field is not None and field not in targets.fields:
                message = f"the data has no field {field!r} for the head {name!r}"
                raise ConfigError(Problem(message, "labels", hint=f"it has {', '.join(targets.fields)}"))
            if field is not None:
                own[called] = targets[field]
        return Targets(own, targets.meta)

    @contextmanager
    def _recording(self) -> Iterator[Taken]:
        """Record the outputs of linked heads while they run; heads without links are left alone."""
        taken: Taken = {}
        wanted = {(link["head"], _taken_of(link)) for links in self.links.values() for link in links}
        handles = [_record(self.heads[name], taken, name, take) for name, take in sorted(wanted)]
        try:
            yield taken
        finally:
            for handle in handles:
                handle.remove()

    def _needed(self, wanted: list[str]) -> list[str]:
        """Return the heads that some need, in order: themselves, and those they take from, directly or not."""
        for name in reversed(self.order):
            if name in wanted:
                wanted = [*wanted, *self._sources(name)]
        return [name for name in self.order if name in wanted]

    def _sort(self) -> list[str]:
        """Return the heads so that each comes after those it takes from."""
        order: list[str] = []
        while len(order) < len(self.heads):
            ready = [n for n in self.heads if n not in order and set(self._sources(n)) <= set(order)]
            if not ready:
                circle = ", ".join(name for name in self.heads if name not in order)
                raise ConfigError(Problem(f"the heads {circle} depend on each other", "links"))
            order += ready
        return order

    def _sources(self, name: str) -> list[str]:
        return [link["head"] for link in self.links.get(name, [])]

    def _check(self) -> None:
        if MAIN not in self.heads or MAIN in self.training_only:
            raise ConfigError(Problem(f"one output is called {MAIN!r}; there are {', '.join(self.heads)}", "heads"))
        named: dict[str, Mapping[str, Any]] = {"labels": self.labels, "weights": self.weights, "links": self.links}
        named["training_only"] = dict.fromkeys(self.training_only)
        sources = [(f"links.{name}", source) for name in self.links for source in self._sources(name)]
        for path, name in [*((key, name) for key, names in named.items() for name in names), *sources]:
            if name not in self.heads:
                raise ConfigError(Problem(f"unknown head {name!r}", path, hint=f"heads: {', '.join(self.heads)}"))
        for name, head in self.heads.items():
            if isinstance(head, CascadeHead):
                message = f"{type(head).__name__} refines another's logits; use it in a CascadeEncoderDecoder"
                raise ConfigError(Problem(message, f"heads.{name}"))
        for name, links in self.links.items():
            for link in links:
                if link.get("take") == "scores":
                    warn_renamed(f"links.{name}: take: scores", "take: logits")
                if _taken_of(link) == "features" and not hasattr(self.heads[link["head"]], "conv_seg"):
                    message = f"{type(self.heads[link['head']]).__name__} has no last convolution to take features from"
                    raise ConfigError(Problem(message, f"links.{name}"))


def _taken_of(link: Link) -> str:
    """Return what a link takes: ``logits``, which were called scores before 0.3, or ``features``."""
    taken = link.get("take", "logits")
    return "logits" if taken == "scores" else taken


def _record(head: nn.Module, taken: Taken, name: str, take: str) -> Any:
    """Record a head's output in ``taken``; return the handle that stops it."""
    if take == "logits":
        return head.register_forward_hook(lambda module, args, output: taken.__setitem__((name, take), output))
    last = cast(nn.Module, head.conv_seg)
    return last.register_forward_pre_hook(lambda module, args: taken.__setitem__((name, take), args[0]))
