"""The classes and colours of data sets with a label specification."""

from __future__ import annotations

from segkernel.labels import Color
from segplug_datasets.label_spec import LabelSpec


class Labelled:
    """A data set whose classes and colours are those of its ``labels``."""

    labels: LabelSpec

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.labels.classes

    @property
    def palette(self) -> tuple[Color, ...]:
        """One RGB colour per class."""
        return self.labels.palette
