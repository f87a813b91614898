from __future__ import annotations

import numpy as np

from segkernel.sample import LabelMap, Sample
from segplug_my_model.transform import MyModelTransform


def sample() -> Sample:
    return Sample({"seg": LabelMap(np.ones((4, 6), np.uint8))}, {"name": "a"}, np.zeros((4, 6, 3), np.uint8))


def test_fog_makes_a_dark_image_lighter_and_keeps_its_labels() -> None:
    changed = MyModelTransform(prob=1.0)(sample(), np.random.default_rng(0))
    assert changed.image.min() > 0
    assert changed.image.dtype == np.uint8
    assert (changed["seg"].array == 1).all()


def test_a_probability_of_zero_changes_nothing() -> None:
    assert (MyModelTransform(prob=0.0)(sample(), np.random.default_rng(0)).image == 0).all()
