"""Base class of decode heads: selection of feature maps, the last 1x1 convolution, the losses.

A head derives from `DecodeHead`, passes on the arguments it does not use itself, and implements ``forward_feature``:

    class MyHead(DecodeHead):
        def __init__(self, width: int = 2, **kwargs: Unpack[DecodeHeadArguments]) -> None:
            super().__init__(**kwargs)
            self.conv = ConvModule(self.in_channels, self.channels, 3, padding=1, norm_cfg=self.norm_cfg)

        def forward_feature(self, features: Features) -> Tensor:
            return self.conv(self.select(features))
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Le
from torch import Tensor, nn
from typing_extensions import TypedDict

from segkernel.annotations import LabelId, PositiveInt, Probability
from segkernel.errors import ConfigError, Problem, warn_renamed
from segkernel.geometry import Size
from segkernel.interfaces.model import CascadeHead, Features, Head, Loss, PixelClasses
from segkernel.labels import Task
from segkernel.nn.init import normal_init
from segkernel.nn.layers import LayerConfig, LayerConfigs, check_conv
from segkernel.nn.losses import CrossEntropyLoss, StridedLogits, accuracy, binary_accuracy, sum_by_name
from segkernel.nn.resize import resize
from segkernel.nn.sampler import PixelSampler
from segkernel.sample import Targets

InputTransform = Literal["resize_concat", "multiple_select"]


class HeadOptions(TypedDict, total=False):
    """The optional arguments of `DecodeHead` except its layers and ``input_transform``."""

    out_channels: PositiveInt | None
    threshold: Probability | None
    dropout_ratio: Annotated[float, Le(1)]
    in_index: int | Sequence[int]
    loss_decode: Loss | Sequence[Loss] | None
    ignore_index: LabelId
    sampler: PixelSampler | None
    align_corners: bool
    task: Task | None


class HeadArguments(HeadOptions):
    """The arguments of `DecodeHead` except its layers and ``input_transform``, for heads that declare their layers."""

    in_channels: PositiveInt | Sequence[PositiveInt]
    channels: PositiveInt
    num_classes: PositiveInt


class MultiLevelHeadArguments(HeadArguments, LayerConfigs, total=False):
    """All arguments of `DecodeHead` except ``input_transform``, for heads that fix it."""


class DecodeHeadArguments(MultiLevelHeadArguments, total=False):
    """All arguments of `DecodeHead`, for heads that pass them on."""

    input_transform: InputTransform | None


class DecodeHead(Head):
    """Base class of heads with one map of logits.

    Args:
        in_channels: Channels of the chosen feature map, or of each of them.
        channels: Channels before the last convolution.
        num_classes: Number of classes.
        out_channels: Channels of the logits: ``num_classes``, or 1 for a binary map of 2 classes.
        threshold: Probability above which a binary map is class 1, or a class of a multi-label map is present; for None
            0.5 with a ``task``, else 0.3.
        dropout_ratio: Share of channels dropped before the last convolution, in training; none when 0 or below.
        conv_cfg: Type of convolution.
        norm_cfg: Type of norm layer; none for None.
        act_cfg: Type of activation.
        in_index: Index of the feature map, or indices; negative ones count from the last.
        input_transform: ``resize_concat`` concatenates several maps at the size of the first, ``multiple_select``
            keeps them separate, None takes one.
        loss_decode: One loss or several; cross-entropy for None. Losses of one name are added.
        ignore_index: The ignored label.
        sampler: Selects the pixels that count; all for None.
        align_corners: How feature maps and logits are resized.
        task: ``multiclass`` is a softmax over the classes. ``binary`` is one channel for two classes, ``multilabel``
            one for each class, with independent sigmoids and binary losses. None derives it from the other
            arguments.

    Raises:
        ConfigError: When arguments contradict each other, or a loss does not support the task.
    """

    in_channels: Any  # an int for heads of one feature map, a list for others
    in_index: Any
    tasks: ClassVar[tuple[Task, ...]] = ("multiclass", "binary", "multilabel")
    learns_classes: ClassVar[bool] = True
    """Whether its targets are the class ids of the labels, not values derived from them."""

    def __init__(
        self,
        in_channels: PositiveInt | Sequence[PositiveInt],
        channels: PositiveInt,
        *,
        num_classes: PositiveInt,
        out_channels: PositiveInt | None = None,
        threshold: Probability | None = None,
        dropout_ratio: Annotated[float, Le(1)] = 0.1,
        conv_cfg: LayerConfig | None = None,
        norm_cfg: LayerConfig | None = None,
        act_cfg: LayerConfig | None = {"type": "ReLU"},  # noqa: B006  never changed
        in_index: int | Sequence[int] = -1,
        input_transform: InputTransform | None = None,
        loss_decode: Loss | Sequence[Loss] | None = None,
        ignore_index: LabelId = 255,
        sampler: PixelSampler | None = None,
        align_corners: bool = False,
        task: Task | None = None,
    ) -> None:
        super().__init__()
        self.channels, self.num_classes, self.task = channels, num_classes, task
        self._binary = task in ("binary", "multilabel")  # an independent sigmoid in every channel
        usual = 1 if task == "binary" else num_classes
        self.out_channels = usual if out_channels is None else out_channels
        sigmoid = self._binary or self.out_channels == 1
        usual_threshold = 0.5 if self._binary else 0.3 if sigmoid else None
        self.threshold = usual_threshold if threshold is None else threshold
        self.conv_cfg, self.norm_cfg, self.act_cfg = conv_cfg, norm_cfg, act_cfg
        check_conv(conv_cfg)  # also for a head that does not use it
        self.layer_cfgs: LayerConfigs = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        self.ignore_index, self.sampler, self.align_corners = ignore_index, sampler, align_corners
        self._set_inputs(in_channels, in_index, input_transform)
        activation: Literal["softmax", "sigmoid"] = "sigmoid" if sigmoid else "softmax"
        kind = task or ("binary" if sigmoid else "multiclass")
        self.output = PixelClasses(num_classes, self.out_channels, activation, self.threshold, align_corners, kind)
        self.loss_decode = _losses(loss_decode, self._binary)
        if task is None:
            self._check_outputs()
        else:
            self._check_task(task, usual)
        self._check_class_weights()
        self.dropout_ratio = dropout_ratio
        self.dropout: nn.Module | None = nn.Dropout2d(dropout_ratio) if dropout_ratio > 0 else None
        self.conv_seg = nn.Conv2d(channels, self.out_channels, 1)
        normal_init(self.conv_seg, std=0.01)

    def select(self, features: Features) -> Any:
        """Return the head's input: one feature map (N, C, h, w), or a list for ``multiple_select``."""
        try:
            chosen = [features[index] for index in (self.in_index if self.input_transform else [self.in_index])]
        except IndexError:
            message = f"in_index {self.in_index}, but there are {len(features)} feature maps"
            raise ConfigError(Problem(message, "in_index")) from None
        if self.input_transform is None:
            return chosen[0]
        if self.input_transform == "multiple_select":
            return chosen
        size = chosen[0].shape[2:]
        return torch.cat([resize(x, size, align_corners=self.align_corners) for x in chosen], 1)

    def forward(self, features: Features) -> Tensor:
        return self.cls_seg(self.forward_feature(features))

    def forward_feature(self, features: Features) -> Tensor:
        """Return the input (N, channels, h, w) of `cls_seg`; a head implements this, or ``forward``."""
        raise NotImplementedError

    def cls_seg(self, x: Tensor) -> Tensor:
        """Return logits (N, out_channels, h, w) for (N, channels, h, w)."""
        return self.conv_seg(x if self.dropout is None else self.dropout(x))

    def loss(self, features: Features, targets: Targets) -> dict[str, Tensor]:
        return self.loss_by_logits(self(features), targets["seg"], targets.get("weight"))

    def single_pass(
        self, features: Features, targets: Targets, size: Size | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logits = self(features)
        return logits, self.loss_by_logits(logits, targets["seg"], targets.get("weight"))

    def loss_by_logits(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> dict[str, Tensor]:
        """Return the losses and ``acc_seg``, a percentage, of logits (N, K, h, w) against class ids (N, H, W).

        ``weight`` (N, H, W) is the weight of each pixel. For the task ``multilabel`` the target is (N, K, H, W).
        Losses that are ``at_stride`` get the logits unchanged, others get them upsampled.
        """
        if (target.ndim == 4) != (self.task == "multilabel"):
            message = f"labels of shape {tuple(target.shape)} for task {self.task or 'multiclass'}"
            raise ConfigError(Problem(message, "task", hint="set data.task to what the data set's labels are"))
        target = target.unsqueeze(1) if self.task == "binary" else target
        strided = StridedLogits(logits, target.shape[-2:], self.align_corners)
        if self.sampler is not None:
            sampled = self._sample(self.sampler, strided, target)
            weight = sampled if weight is None else sampled * weight
        options: Any = {"weight": weight, "ignore_index": self.ignore_index}
        named = sum_by_name((loss.name, strided.loss(loss, target, **options)) for loss in self._losses())
        named["acc_seg"] = self._accuracy(strided, target)
        return named

    def loss_by_scores(self, scores: Tensor, target: Tensor, weight: Tensor | None = None) -> dict[str, Tensor]:
        """The name of `loss_by_logits` before 0.3."""
        warn_renamed("DecodeHead.loss_by_scores", "loss_by_logits")
        return self.loss_by_logits(scores, target, weight)

    def _sample(self, sampler: PixelSampler, strided: StridedLogits, target: Tensor) -> Tensor:
        if not sampler.at_stride:
            return sampler.sample(strided.full, target, self._losses(), self.ignore_index)
        options = {"align_corners": self.align_corners}
        return sampler.sample(strided.small, target, self._losses(), self.ignore_index, **options)

    def _accuracy(self, strided: StridedLogits, target: Tensor) -> Tensor:
        options: Any = {"ignore_index": self.ignore_index, "align_corners": self.align_corners}
        if self._binary:
            return binary_accuracy(strided.largest, target, self.threshold or 0.0, **options)
        return accuracy(strided.largest, target, **options)  # type: ignore[return-value]  # one number for one topk

    def _losses(self) -> list[Loss]:
        return list(self.loss_decode) if isinstance(self.loss_decode, nn.ModuleList) else [self.loss_decode]  # type: ignore[list-item, arg-type]

    def _set_inputs(
        self, in_channels: int | Sequence[int], in_index: int | Sequence[int], transform: InputTransform | None
    ) -> None:
        several = isinstance(in_channels, Sequence), isinstance(in_index, Sequence)
        if several != (transform is not None,) * 2 or (transform and len(in_channels) != len(in_index)):  # type: ignore[arg-type]
            expected = "one number each" if transform is None else "two lists of equal length"
            message = f"in_channels {in_channels} and in_index {in_index}: input_transform {transform} needs {expected}"
            raise ConfigError(Problem(message, "in_index"))
        self.input_transform, self.in_index = transform, in_index
        self.in_channels = sum(in_channels) if transform == "resize_concat" else in_channels  # type: ignore[arg-type]

    def _check_outputs(self) -> None:
        if self.out_channels != self.num_classes and (self.out_channels, self.num_classes) != (1, 2):
            message = (
                f"{self.out_channels} channels for {self.num_classes} classes; 1 channel is enough for 2 classes only"
            )
            raise ConfigError(Problem(message, "out_channels"))

    def _check_class_weights(self) -> None:
        """Check that losses with class weights, or one ``alpha`` per class, have as many as there are classes."""
        for loss, name in itertools.product(self._losses(), ("class_weight", "alpha")):
            weights = getattr(loss, name, None)
            # A binary loss takes a negative and a positive weight, or one for all.
            pair = name == "class_weight" and (self.out_channels == 1 or getattr(loss, "use_sigmoid", False))
            if isinstance(weights, list) and len(weights) not in (self.out_channels, *((1, 2) if pair else ())):
                what = "class weights" if name == "class_weight" else f"numbers {name}"
                message = f"{type(loss).__name__} has {len(weights)} {what} for {self.out_channels} classes"
                raise ConfigError(Problem(message, "loss_decode", hint=f"give {name} one number per class"))

    def _check_task(self, task: Task, channels: int) -> None:
        """Validate the arguments against the task."""
        problems, name = [], type(self).__name__
        if task not in self.tasks:
            problems.append(Problem(f"{name} does not support task {task}, only {', '.join(self.tasks)}", "task"))
        if task == "binary" and self.num_classes != 2:
            hint = "set data.num_classes: 2 and merge classes, or data.task: multiclass"
            problems.append(Problem(f"task binary has 2 classes, not {self.num_classes}", "num_classes", hint=hint))
        elif self.out_channels != channels:
            message = f"task {task} with {self.num_classes} classes has {channels} channels, not {self.out_channels}"
            problems.append(Problem(message, "out_channels", hint="leave it out"))
        if task == "multiclass" and self.threshold is not None:
            message, hint = "task multiclass takes the argmax and has no threshold", "leave it out"
            problems.append(Problem(message, "threshold", hint=f"{hint}, or set data.task to binary or multilabel"))
        if self._binary and self.sampler is not None:
            message = f"{type(self.sampler).__name__} samples by a softmax, task {task} has none"
            problems.append(Problem(message, "sampler", hint="remove it"))
        for loss in self._losses() if self._binary else ():
            if not getattr(loss, "use_sigmoid", False):
                hint = "use CrossEntropyLoss, FocalLoss or DiceLoss, with use_sigmoid: true"
                message = f"{type(loss).__name__} is not a binary loss here, and task {task} needs one"
                problems.append(Problem(message, "loss_decode", hint=hint))
        if problems:
            raise ConfigError(problems)


class CascadeDecodeHead(CascadeHead, DecodeHead):  # type: ignore[misc]  # previous logits come in between
    """Base class of heads that refine the logits of another; arguments are those of `DecodeHead`."""

    def loss(self, features: Features, previous: Tensor, targets: Targets) -> dict[str, Tensor]:  # type: ignore[override]
        return self.loss_by_logits(self(features, previous), targets["seg"], targets.get("weight"))

    def single_pass(  # type: ignore[override]
        self, features: Features, previous: Tensor, targets: Targets, size: Size | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logits = self(features, previous)
        return logits, self.loss_by_logits(logits, targets["seg"], targets.get("weight"))


def _losses(loss_decode: Loss | Sequence[Loss] | None, use_sigmoid: bool) -> nn.Module:
    if loss_decode is None:
        return CrossEntropyLoss(use_sigmoid)
    return nn.ModuleList(loss_decode) if isinstance(loss_decode, Sequence) else loss_decode
