"""Bases of data sets with labels."""

from __future__ import annotations

from collections.abc import Sequence

from segkernel.catalog import display
from segkernel.labels import Color, Labels
from segplug_datasets.label_spec import LabelSpec
from segplug_datasets.labels_hook import LabelsHook
from segplug_datasets.left_out import LeftOut


class Named:
    """Takes classes and colours of a data set from its ``labels``."""

    labels: Labels
    _repr_html_ = display

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.labels.classes

    @property
    def palette(self) -> tuple[Color, ...]:
        """One RGB colour per class."""
        return self.labels.palette


class Labelled(Named):
    """A data set with a label specification."""

    labels: LabelSpec
    left_out: Sequence[LeftOut] = ()
    """Objects and files that the set skipped when it was opened."""
    run_hooks = (LabelsHook,)
