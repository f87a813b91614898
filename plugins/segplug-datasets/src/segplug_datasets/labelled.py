"""Base of data sets with a label specification."""

from __future__ import annotations

from collections.abc import Sequence

from segkernel.catalog import display
from segkernel.labels import Color
from segplug_datasets.label_spec import LabelSpec
from segplug_datasets.labels_hook import LabelsHook
from segplug_datasets.left_out import LeftOut


class Labelled:
    """Takes classes and colours of a data set from its ``labels``."""

    labels: LabelSpec
    left_out: Sequence[LeftOut] = ()
    """Objects and files that the set skipped when it was opened."""
    run_hooks = (LabelsHook,)
    _repr_html_ = display

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.labels.classes

    @property
    def palette(self) -> tuple[Color, ...]:
        """One RGB colour per class."""
        return self.labels.palette
