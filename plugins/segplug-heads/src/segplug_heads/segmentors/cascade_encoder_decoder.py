"""A segmentor whose decode heads refine one another's scores: OCRNet, PointRend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Backbone, CascadeHead, Features, Head, Neck, OutputSpec, TestConfig
from segkernel.nn import CascadeDecodeHead, DecodeHead
from segkernel.sample import Targets
from segplug_heads.segmentors.encoder_decoder import EncoderDecoder


class Cascade(nn.ModuleList):
    """Heads in a row: feature maps -> scores of the last one. The first is a `Head`, the others are `CascadeHead`."""

    @property
    def output(self) -> OutputSpec:
        """What the scores mean."""
        return cast(Head, self[-1]).output

    def forward(self, features: Features) -> Tensor:
        return self[-1](features, *self._before_last(features))

    def predict(self, features: Features, size: tuple[int, int] | None = None) -> Tensor:
        """Return the scores for inference; ``size`` is the image's."""
        return self[-1].predict(features, *self._before_last(features), size=size)

    def losses(self, features: Features, targets: Targets) -> list[dict[str, Tensor]]:
        """Return the losses of each head."""
        named, previous = [], []
        for head in self:
            inputs = (features, *previous)
            if head is not self[-1] and _learns_from_scores(head):  # what it hands on and learns from is one
                previous = [head(*inputs)]
                named.append(cast(DecodeHead, head).loss_by_scores(previous[0], targets["seg"], targets.get("weight")))
                continue
            named.append(cast(Head, head).loss(*inputs, targets))
            previous = [] if head is self[-1] else [head(*inputs)]
        return named

    def _before_last(self, features: Features) -> list[Tensor]:
        """Return the scores of the last head but one, where there is one."""
        previous: list[Tensor] = []
        for head in list(self)[:-1]:
            previous = [head(features, *previous)]
        return previous


class CascadeEncoderDecoder(EncoderDecoder):
    """Images (N, C, H, W) -> scores (N, K, h, w) of the last of the decode heads.

    Losses are named ``decode_0.loss_ce``, ``decode_1.loss_ce``, ..., and as in `EncoderDecoder` for auxiliary heads.

    Args:
        num_stages: Number of decode heads.
        backbone: Images to feature maps.
        decode_head: The first makes scores from feature maps; each other one, a `CascadeHead`, from feature maps and
            the scores of the one before it.
        neck: Feature maps to feature maps, between the two; none for None.
        auxiliary_head: Heads whose losses help in training.
        train_cfg: What the refining heads want to know, as the number of points of PointRend.
        test_cfg: How `segkernel.inference` looks at an image: whole, or in sliding windows; and as ``train_cfg``.
        pretrained: Weights that the runner loads after building.

    Raises:
        ConfigError: There are not ``num_stages`` heads, or one is not of the kind its place needs.
    """

    conformance: ClassVar = {
        "num_stages": 2,
        "backbone": {"type": "segkernel.testing.toys:ToyBackbone"},
        "decode_head": [
            {"type": "FCNHead", "in_channels": 16, "channels": 8, "num_classes": 4},
            {"type": "OCRHead", "in_channels": 16, "channels": 8, "ocr_channels": 8, "num_classes": 4},
        ],
    }

    def __init__(
        self,
        num_stages: int,
        backbone: Backbone,
        decode_head: Sequence[Head],
        neck: Neck | None = None,
        auxiliary_head: Head | Sequence[Head] | None = None,
        train_cfg: dict[str, Any] | None = None,
        test_cfg: TestConfig | None = None,
        pretrained: str | None = None,
    ) -> None:
        _check_stages(num_stages, decode_head)
        cascade = cast(Head, Cascade(decode_head))
        super().__init__(backbone, cascade, neck, auxiliary_head, train_cfg, test_cfg, pretrained)
        self.num_stages = num_stages
        for i, head in enumerate(decode_head):
            self._check_channels(f"decode_head[{i}]", head)
            if isinstance(head, CascadeHead):
                head.configure(train_cfg or {}, test_cfg or {})

    def loss(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        features = self.extract_feat(images)
        stages = cast(Cascade, self.decode_head).losses(features, targets)
        losses = {f"decode_{i}": named for i, named in enumerate(stages)}
        losses |= {name: head.loss(features, targets) for name, head in self._auxiliary().items()}
        return {f"{name}.{key}": value for name, named in losses.items() for key, value in named.items()}


def _learns_from_scores(head: nn.Module) -> bool:
    """Tell whether the head's loss is `DecodeHead.loss_by_scores` of what it returns."""
    return isinstance(head, DecodeHead) and type(head).loss in (DecodeHead.loss, CascadeDecodeHead.loss)


def _check_stages(num_stages: int, heads: Sequence[Head]) -> None:
    if not num_stages or len(heads) != num_stages:
        raise ConfigError(Problem(f"{len(heads)} decode heads for {num_stages} stages", "decode_head"))
    for i, head in enumerate(heads):
        if isinstance(head, CascadeHead) != (i > 0):
            kind = "refines scores, and there are none before it" if i == 0 else "cannot refine the scores before it"
            message = f"{type(head).__name__} {kind}"
            raise ConfigError(Problem(message, f"decode_head[{i}]", hint="PointHead and OCRHead refine scores"))
