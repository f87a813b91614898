"""Label files of every encoding are converted to the ids of a plain table lookup."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from segkernel.errors import DataError, UsageError
from segkernel.labels import IGNORE
from segplug_datasets.label_spec import LabelSpec

IGNORED = [(255,), (), (0,), (1, 255), (11, 255), (254, 255)]
VALUES = [None, {0: 0, 255: 1}]


def specs(count: int) -> list[LabelSpec]:
    found = []
    for offset, ignore, values, background in product((0, 1, 7), IGNORED, VALUES, (None, "class 0")):
        try:
            names = tuple(f"class {index}" for index in range(count))
            found.append(LabelSpec(names, (), ignore, 0 if values else offset, values, background=background))
        except UsageError:  # the parts contradict each other
            continue
    return found


def looked_up(spec: LabelSpec, raw: np.ndarray) -> np.ndarray | None:
    """Return the ids, by the meaning of each value in turn; None when one has none."""
    pairs = spec.values or {index + spec.offset: index for index in range(len(spec.classes))}
    hidden = () if spec.values else range(spec.offset)
    known = pairs | {value: IGNORE for value in (*hidden, *spec.ignore) if value not in (spec.values or ())}
    rest = None if spec.background is None else spec.classes.index(spec.background)
    ids = [known.get(value, rest) for value in raw.ravel().tolist()]
    return None if None in ids else np.array(ids, np.uint8).reshape(raw.shape)


@pytest.mark.parametrize("count", [1, 2, 3, 19, 254, 255])
def test_encoding_equals_a_table_lookup(count: int) -> None:
    rng = np.random.default_rng(0)
    for spec in specs(count):
        highest = min(count + spec.offset, 256)
        for pool in (range(highest), [*range(highest), 255], range(256), [0], [255]):
            raw = rng.choice(np.array(pool, np.uint8), (13, 17))
            kept, expected = raw.copy(), looked_up(spec, raw)
            if expected is None:
                with pytest.raises(DataError, match="label values"):
                    spec.encode(raw)
            else:
                ids = spec.encode(raw)
                assert ids.dtype == np.uint8
                assert np.array_equal(ids, expected), spec
            assert np.array_equal(raw, kept)
