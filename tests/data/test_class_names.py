"""The class names of an open-vocabulary model for the name of a data set equal those of the data set."""

from __future__ import annotations

import pytest

from segkernel.catalog import Catalog
from segplug_heads.parts.prompts import class_names


def test_names_of_an_installed_data_set_are_found() -> None:
    assert class_names("cityscapes")[:2] == ["road", "sidewalk"]


@pytest.mark.parametrize(
    ("name", "dataset"), [("voc", "PascalVOC"), ("pascal_context", "PascalContext"), ("coco-stuff", "COCOStuff")]
)
def test_names_in_segplug_heads_equal_those_of_the_data_set(name: str, dataset: str) -> None:
    spec = Catalog.discover().load("datasets", f"{dataset}Dataset").spec
    assert class_names(name) == [name for name in spec.classes if name != "background"]
