"""A segmentor whose decode heads refine one another's logits: OCRNet, PointRend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from segkernel.annotations import NonNegativeInt, PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.geometry import Size
from segkernel.interfaces.model import Backbone, CascadeHead, Features, Head, Neck, Output, TestConfig
from segkernel.sample import Targets
from segplug_heads.segmentors.encoder_decoder import EncoderDecoder, flattened
from segplug_heads.segmentors.plain_targets import targets_of


class PointTestConfig(TestConfig, total=False):
    """Settings of PointRend: number of upsampling steps, pixels that each step predicts again, factor of each step."""

    subdivision_steps: NonNegativeInt
    subdivision_num_points: PositiveInt
    scale_factor: float


class Cascade(nn.ModuleList):
    """Heads in a row: feature maps -> logits of the last one. The first is a `Head`, the others are `CascadeHead`."""

    @property
    def output(self) -> Output:
        """Meaning of the logits: that of the last head."""
        return cast(Head, self[-1]).output

    @property
    def one_pass(self) -> bool:
        """Whether prediction and losses come from one run."""
        return all(cast(Head, head).one_pass for head in self)

    def forward(self, features: Features) -> Tensor:
        return self[-1](features, *self._before_last(features))

    def predict(self, features: Features, size: tuple[int, int] | None = None) -> Tensor:
        """Return the logits for inference; ``size`` is the image's (height, width)."""
        return self._last.predict(features, *self._before_last(features), size=size)

    def losses(self, features: Features, targets: Targets) -> list[dict[str, Tensor]]:
        """Return the losses of each head."""
        previous, losses = self._learn_before_last(features, targets)
        return [*losses, self._last.loss(features, *previous, targets)]

    def predict_with_losses(
        self, features: Features, targets: Targets, size: Size
    ) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """Return what `predict` and `losses` return."""
        previous, losses = self._learn_before_last(features, targets)
        logits, last = self._last.predict_with_loss(features, *previous, targets, size=size)
        return logits, [*losses, last]

    @property
    def _last(self) -> Any:
        return self[-1]

    def _learn_before_last(self, features: Features, targets: Targets) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        """Return the logits of the last head but one, where there is one, and the losses of all but the last."""
        previous: list[Tensor] = []
        losses = []
        for head in cast(Any, list(self)[:-1]):
            inputs = (features, *previous)
            if head.one_pass:  # one forward pass for output and loss
                logits, named = head.single_pass(*inputs, targets)
            else:
                logits, named = head(*inputs), head.loss(*inputs, targets)
            previous = [logits]
            losses.append(named)
        return previous, losses

    def _before_last(self, features: Features) -> list[Tensor]:
        """Return the logits of the last head but one, where there is one."""
        previous: list[Tensor] = []
        for head in list(self)[:-1]:
            previous = [head(features, *previous)]
        return previous


class CascadeEncoderDecoder(EncoderDecoder):
    """Images (N, C, H, W) -> logits (N, K, h, w) of the last of the decode heads.

    Losses are named ``decode_0.loss_ce``, ``decode_1.loss_ce``, ..., and as in `EncoderDecoder` for auxiliary heads.

    Args:
        num_stages: Number of decode heads.
        backbone: Images to feature maps.
        decode_head: The first makes logits from feature maps; each other one, a `CascadeHead`, from feature maps and
            the logits of the one before it.
        neck: Feature maps to feature maps, between the two; none for None.
        auxiliary_head: Heads whose losses help in training.
        train_cfg: Settings of the refining heads in training, such as PointRend's number of points.
        test_cfg: Inference mode of `segkernel.inference`: whole images or sliding windows; and as ``train_cfg``.
        pretrained: Weights to load into the backbone: a file, an address or a known name.

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
        num_stages: PositiveInt,
        backbone: Backbone,
        decode_head: Sequence[Head],
        neck: Neck | None = None,
        auxiliary_head: Head | Sequence[Head] | None = None,
        train_cfg: dict[str, Any] | None = None,
        test_cfg: PointTestConfig | None = None,
        pretrained: str | None = None,
    ) -> None:
        _check_stages(num_stages, decode_head)
        cascade = cast(Head, Cascade(decode_head))
        super().__init__(
            backbone,
            cascade,
            neck=neck,
            auxiliary_head=auxiliary_head,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
            pretrained=pretrained,
        )
        self.num_stages = num_stages
        for i, head in enumerate(decode_head):
            self._check_channels(f"decode_head[{i}]", head)
            self._check_classes(f"decode_head[{i}]", head)
            if isinstance(head, CascadeHead):
                head.configure(train_cfg or {}, test_cfg or {})

    def loss(self, images: Tensor, targets: Targets | Tensor) -> dict[str, Tensor]:
        targets = targets_of(targets, images, cast(Head, cast(Cascade, self.decode_head)[-1]))
        features = self.extract_feat(images)
        stages = cast(Cascade, self.decode_head).losses(features, targets)
        return self._named(stages) | flattened(self._auxiliary_losses(features, targets))

    def single_pass(self, images: Tensor, targets: Targets) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        features, size = self.extract_feat(images), (images.shape[2], images.shape[3])
        logits, stages = cast(Cascade, self.decode_head).predict_with_losses(features, targets, size)
        return {"seg": logits}, self._named(stages) | flattened(self._auxiliary_losses(features, targets))

    @staticmethod
    def _named(stages: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        return flattened({f"decode_{i}": losses for i, losses in enumerate(stages)})


def _check_stages(num_stages: int, heads: Sequence[Head]) -> None:
    if not num_stages or len(heads) != num_stages:
        raise ConfigError(Problem(f"{len(heads)} decode heads for {num_stages} stages", "decode_head"))
    for i, head in enumerate(heads):
        if isinstance(head, CascadeHead) != (i > 0):
            kind = "refines logits, and there are none before it" if i == 0 else "cannot refine the logits before it"
            message = f"{type(head).__name__} {kind}"
            raise ConfigError(Problem(message, f"decode_head[{i}]", hint="PointHead and OCRHead refine logits"))
