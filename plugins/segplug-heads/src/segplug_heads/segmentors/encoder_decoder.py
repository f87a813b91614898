"""A segmentor of backbone, neck, decode head and auxiliary heads: the shape of most models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

from torch import Tensor, nn

import segkernel.weights
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Backbone, Head, Neck, PixelClasses, Segmentor, TestConfig
from segkernel.nn import DecodeHead
from segkernel.sample import Targets
from segplug_heads.outputs import DirectPixelClasses
from segplug_heads.segmentors.plain_targets import targets_of


class EncoderDecoder(Segmentor):
    """Images (N, C, H, W) -> logits (N, K, h, w) of ``decode_head``.

    Args:
        backbone: Images to feature maps.
        decode_head: Feature maps to logits.
        neck: Feature maps to feature maps, between the two; none for None.
        auxiliary_head: Heads whose losses help in training.
        train_cfg: Not used, accepted for existing configs.
        test_cfg: Inference mode of `segkernel.inference`: whole images or sliding windows.
        pretrained: Weights to load into the backbone: a file, an address or a known name.
        direct_resize: Resize logits to the original image at once, as transformers does, not to the size of the
            network's input first, as MMSegmentation does.
    """

    conformance: ClassVar[Any] = {
        "backbone": {"type": "segkernel.testing.toys:ToyBackbone"},
        "decode_head": {"type": "FCNHead", "in_channels": 16, "channels": 8, "num_classes": 4},
        "auxiliary_head": {"type": "FCNHead", "in_channels": 16, "in_index": 2, "channels": 8, "num_classes": 4},
    }

    def __init__(
        self,
        backbone: Backbone,
        decode_head: Head,
        neck: Neck | None = None,
        auxiliary_head: Head | Sequence[Head] | None = None,
        train_cfg: dict[str, Any] | None = None,
        test_cfg: TestConfig | None = None,
        pretrained: str | None = None,
        direct_resize: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.decode_head = decode_head
        several = isinstance(auxiliary_head, Sequence)
        self.auxiliary_head = nn.ModuleList(auxiliary_head) if several else auxiliary_head  # type: ignore[arg-type]
        self.train_cfg, self.pretrained = train_cfg, pretrained
        self.test_cfg: TestConfig = test_cfg or {"mode": "whole"}
        output = decode_head.output
        if direct_resize and isinstance(output, PixelClasses):
            output = DirectPixelClasses(**vars(output))
        self.outputs = {"seg": output}
        self._check_heads()
        segkernel.weights.load_pretrained(self)

    def feature_channels(self) -> Sequence[int] | None:
        """Return the channels of `extract_feat`'s maps; None if unknown."""
        return getattr(self.backbone, "channels", None) if self.neck is None else None

    def extract_feat(self, images: Tensor) -> Sequence[Tensor]:
        """Return the feature maps of normalised images (N, C, H, W), finest first."""
        features = self.backbone(images)
        return features if self.neck is None else self.neck(features)

    def forward(self, images: Tensor) -> Tensor:
        return self.decode_head(self.extract_feat(images))

    def loss(self, images: Tensor, targets: Targets | Tensor) -> dict[str, Tensor]:
        targets = targets_of(targets, images, self.decode_head)
        features = self.extract_feat(images)
        losses = {"decode": self.decode_head.loss(features, targets), **self._auxiliary_losses(features, targets)}
        return flattened(losses)

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        return {"seg": self.decode_head.predict(self.extract_feat(images), (images.shape[2], images.shape[3]))}

    @property
    def one_pass(self) -> bool:
        return super().one_pass and self.decode_head.one_pass

    def single_pass(self, images: Tensor, targets: Targets) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        features, size = self.extract_feat(images), (images.shape[2], images.shape[3])
        logits, losses = self.decode_head.predict_with_loss(features, targets, size=size)
        return {"seg": logits}, flattened({"decode": losses, **self._auxiliary_losses(features, targets)})

    def _check_heads(self) -> None:
        several = isinstance(self.auxiliary_head, nn.ModuleList)
        names = (f"auxiliary_head[{i}]" if several else "auxiliary_head" for i in range(len(self._auxiliary())))
        for name, head in {"decode_head": self.decode_head, **dict(zip(names, self._auxiliary().values()))}.items():
            self._check_channels(name, head)
            self._check_classes(name, head)

    def _check_classes(self, name: str, head: Head) -> None:
        """Refuse a head that learns the labels of another number of classes than are predicted."""
        count = self.outputs["seg"].classes
        if isinstance(head, DecodeHead) and head.learns_classes and head.num_classes != count:
            message = f"{head.num_classes} classes, but the decode head that predicts has {count}"
            hint = "they learn from the same labels: set num_classes of all heads, or reference ${data.num_classes}"
            raise ConfigError(Problem(message, f"{name}.num_classes", hint=hint))

    def _check_channels(self, name: str, head: Head) -> None:
        """Check that the head's input channels are those of the feature maps, as far as both declare them."""
        channels = self.feature_channels()
        if channels is None or not isinstance(head, DecodeHead):
            return
        try:
            given = [channels[index] for index in (head.in_index if head.input_transform else [head.in_index])]
        except IndexError:
            given = []
        if head.input_transform == "resize_concat":
            given = [sum(given)]
        wanted = head.in_channels if head.input_transform == "multiple_select" else [head.in_channels]
        if list(wanted) != given:
            message = f"in_channels {head.in_channels} at in_index {head.in_index} does not fit the backbone"
            raise ConfigError(Problem(message, name, hint=f"its maps have {', '.join(map(str, channels))} channels"))

    def _auxiliary_losses(self, features: Sequence[Tensor], targets: Targets) -> dict[str, dict[str, Tensor]]:
        return {name: head.loss(features, targets) for name, head in self._auxiliary().items()}

    def _auxiliary(self) -> dict[str, Head]:
        if isinstance(self.auxiliary_head, nn.ModuleList):
            return {f"aux_{i}": cast(Head, head) for i, head in enumerate(self.auxiliary_head)}
        return {} if self.auxiliary_head is None else {"aux": cast(Head, self.auxiliary_head)}


def flattened(losses: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return ``{"decode.loss_ce": ...}`` for the losses of each head by name."""
    return {f"{name}.{key}": value for name, named in losses.items() for key, value in named.items()}
