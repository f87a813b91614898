"""Transforms that combine several samples: mosaics, CutMix, ClassMix, MixUp and copy-paste."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from segkernel.errors import DataError, UsageError
from segkernel.sample import LabelMap, Sample, WeightMap
from segplug_datasets.fields import Boxes, InstanceMasks, Keypoints
from segplug_datasets.transforms.copy_paste import CopyPaste
from segplug_datasets.transforms.layers import Layer, composite, resize_and_crop
from segplug_datasets.transforms.mix import ClassMix, CutMix, MixUp
from segplug_datasets.transforms.mosaic import Mosaic, RandomMosaic
from segplug_datasets.transforms.place import RandomFlip
from segplug_datasets.transforms.resize import Resize


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def plain(value: int, size: tuple[int, int] = (8, 12), label: int | None = None) -> Sample:
    """A sample of one colour and one label."""
    labels = np.full(size, value if label is None else label, np.uint8)
    return Sample({"seg": LabelMap(labels)}, {"path": f"{value}.png"}, np.full((*size, 3), value, np.uint8))


def agrees(sample: Sample) -> bool:
    """Whether every labelled pixel shows its label."""
    labels = sample["seg"].array
    return bool((sample.image[..., 0] == labels)[labels != 255].all())


# ---------------------------------------------------------------- layers


def test_objects_are_listed_covered_and_dropped() -> None:
    def two(value: int) -> Sample:
        sample, masks = plain(value, (6, 6)), np.zeros((6, 6, 2), np.uint8)
        masks[:4, :4, 0] = masks[4:, 4:, 1] = 1
        sample["masks"] = InstanceMasks(masks)
        sample["boxes"] = Boxes(np.array([[0, 0, 4, 4], [4, 4, 6, 6]], np.float32))
        sample["keypoints"] = Keypoints(np.array([[[1, 1, 2], [3.5, 3.5, 2]], [[5, 5, 2], [5, 5, 0]]], np.float32))
        return sample

    mask = np.zeros((6, 6), bool)
    mask[:, 2:] = True
    laid = composite([Layer(two(10)), Layer(two(20), mask=mask)], (6, 6))
    assert laid["boxes"].array.tolist() == [[0, 0, 2, 4], [2, 0, 4, 4], [4, 4, 6, 6]]  # the hidden second is gone
    assert laid["masks"].array.sum((0, 1)).tolist() == [8, 8, 4]
    assert laid["keypoints"].array[:, :, 2].tolist() == [[2, 1], [1, 2], [2, 0]]


def test_boxes_without_masks_stay_while_half_of_them_is_seen() -> None:
    sample, over = plain(1, (4, 8)), plain(2, (4, 4))
    sample["boxes"] = Boxes(np.array([[0, 0, 8, 4], [5, 0, 8, 4]], np.float32))
    over["boxes"] = Boxes(np.zeros((0, 4), np.float32))
    laid = composite([Layer(sample), Layer(over, 0, 4)], (4, 8))
    assert laid["boxes"].array.tolist() == [[0, 0, 8, 4]]


def test_fields_that_disagree_are_refused() -> None:
    sample, other = plain(1), plain(2)
    sample["weight"] = WeightMap(np.ones(sample.size, np.float32))
    with pytest.raises(DataError, match="no field 'weight'"):
        composite([Layer(sample), Layer(other)], sample.size)
    other["weight"] = LabelMap(np.ones(sample.size, np.uint8))
    with pytest.raises(DataError, match="is a LabelMap"):
        composite([Layer(sample), Layer(other)], sample.size)
    other.image = other.image[..., :1]
    with pytest.raises(DataError, match="cannot be mixed"):
        composite([Layer(sample), Layer(other)], sample.size)
    boxes = Boxes(np.zeros((1, 4), np.float32))
    odd = Sample({"masks": InstanceMasks(np.ones((2, 2, 2), np.uint8)), "boxes": boxes}, {}, np.zeros((2, 2, 3)))
    with pytest.raises(DataError, match="disagree on the number of objects"):
        composite([Layer(odd)], (2, 2))


@pytest.mark.parametrize(("size", "goal"), [((4, 6), (8, 8)), ((30, 40), (8, 8)), ((5, 40), (8, 8)), ((8, 8), (8, 8))])
def test_another_size_is_fitted_without_a_border(size: tuple[int, int], goal: tuple[int, int]) -> None:
    fitted = resize_and_crop(plain(5, size), goal, rng())
    assert fitted.size == goal
    assert (fitted["seg"].array == 5).all()


# ---------------------------------------------------------------- mosaics


def test_a_mosaic_keeps_the_inner_corners_at_its_point() -> None:
    samples = [plain(value, (4, 6)) for value in (1, 2, 3, 4)]
    mosaic = RandomMosaic(1.0, (4, 6), (1.0, 1.0), pad_val=9)(samples[0], rng(), *samples[1:])
    assert mosaic.size == (8, 12)
    expected = np.block([[np.full((4, 6), 1), np.full((4, 6), 2)], [np.full((4, 6), 3), np.full((4, 6), 4)]])
    assert np.array_equal(mosaic["seg"].array, expected)
    assert np.array_equal(mosaic.image[..., 1], expected)
    assert mosaic.moved == "RandomMosaic"


def test_a_mosaic_is_cut_and_filled_where_its_point_is_off_the_middle() -> None:
    samples = [plain(value, (4, 4)) for value in (1, 2, 3, 4)]
    mosaic = RandomMosaic(1.0, (4, 4), (0.5, 0.5), pad_val=9)(samples[0], rng(), *samples[1:])
    labels = mosaic["seg"].array
    assert labels[:2, :2].tolist() == [[1, 1], [1, 1]]
    assert (labels[6:] == 255).all()
    assert (mosaic.image[6:] == 9).all()
    assert agrees(mosaic)
    samples = [plain(value, (4, 4)) for value in (1, 2, 3, 4)]
    filled = RandomMosaic(1.0, (4, 4), (0.5, 0.5), seg_pad_val=0)(samples[0], rng(), *samples[1:])
    assert (filled["seg"].array[6:] == 0).all()


def test_mosaic_scales_each_image_to_fit_and_gives_its_size() -> None:
    for seed in range(10):
        samples = [plain(value, size) for value, size in zip((1, 2, 3, 4), [(5, 50), (64, 64), (7, 9), (90, 20)])]
        mosaic = Mosaic((32, 48))(samples[0], rng(seed), *samples[1:])
        assert mosaic.size == (32, 48)
        assert agrees(mosaic)
        assert set(np.unique(mosaic.image)) <= {1, 2, 3, 4, 114}


def test_a_mosaic_is_made_with_the_given_probability() -> None:
    sample = plain(1)
    assert RandomMosaic(0.0)(sample, rng(), plain(2), plain(3), plain(4)).size == (8, 12)
    made = [Mosaic((8, 12), prob=0.3)(plain(1), rng(seed), plain(2), plain(3), plain(4)) for seed in range(300)]
    assert 60 < sum(bool(one.moved) for one in made) < 120


# ---------------------------------------------------------------- CutMix, ClassMix, MixUp


def test_cut_mix_replaces_one_rectangle_of_the_drawn_size() -> None:
    shares = []
    for seed in range(200):
        mixed = CutMix(1.0)(plain(1, (40, 60)), rng(seed), plain(2, (50, 50)))
        labels = mixed["seg"].array == 2
        assert agrees(mixed)
        rows, columns = labels.any(1), labels.any(0)
        assert np.array_equal(labels, rows[:, None] & columns)
        shares.append(labels.mean())
    assert 0.25 < np.mean(shares) < 0.5  # half on average, less what lies outside
    assert max(shares) > 0.7


def test_class_mix_takes_half_of_the_classes() -> None:
    other = plain(0, (4, 8))
    other["seg"] = LabelMap(np.repeat(np.array([[5, 6, 7, 255]], np.uint8), 4, 0).repeat(2, 1))
    other.image = np.repeat(other["seg"].array[..., None], 3, 2)
    for seed in range(20):
        mixed = ClassMix(1.0)(plain(1, (4, 8)), rng(seed), other)
        found = set(np.unique(mixed["seg"].array).tolist())
        assert len(found - {1}) == 2
        assert found <= {1, 5, 6, 7}
        assert agrees(mixed)
    unlabelled = plain(9, (4, 8), label=255)
    assert (ClassMix(1.0)(plain(1, (4, 8)), rng(), unlabelled)["seg"].array == 1).all()


def test_mix_up_by_hand() -> None:
    class Fixed:
        def random(self) -> float:
            return 0.0

        def beta(self, a: float, b: float) -> float:
            return 0.25  # the larger share, 0.75, is the sample's

        def integers(self, high: int) -> int:
            return 0

    sample, other = plain(100, (1, 4)), plain(200, (1, 4))
    sample["seg"] = LabelMap(np.array([[1, 1, 255, 255]], np.uint8))
    other["seg"] = LabelMap(np.array([[1, 2, 3, 255]], np.uint8))
    mixed = MixUp(1.0)(sample, Fixed(), other)  # type: ignore[arg-type]
    assert (mixed.image == 125).all()
    assert mixed["seg"].array.tolist() == [[1, 1, 3, 255]]
    assert mixed["weight"].array.tolist() == [[1.0, 0.75, 0.25, 0.0]]
    assert mixed["weight"].array.dtype == np.float32


def test_mix_up_weighs_what_is_weighed_already_and_samples_left_alone() -> None:
    assert MixUp(0.0)(plain(1), rng(), plain(2))["weight"].array.tolist() == np.ones((8, 12)).tolist()
    sample, other = plain(100, label=1), plain(200, label=1)
    sample["weight"] = WeightMap(np.full(sample.size, 2, np.float32))
    other["weight"] = WeightMap(np.full(sample.size, 2, np.float32))
    assert np.allclose(MixUp(1.0)(sample, rng(), other)["weight"].array, 2)


def test_the_weights_reach_the_loss() -> None:
    torch = pytest.importorskip("torch")
    from segkernel.nn import CrossEntropyLoss

    sample, other = plain(100, (1, 2)), plain(200, (1, 2))
    sample["seg"], other["seg"] = (LabelMap(np.array([[0, second]], np.uint8)) for second in (1, 2))
    mixed = MixUp(1.0, alpha=5)(sample, rng(), other)
    scores = torch.randn(1, 3, 1, 2, generator=torch.Generator().manual_seed(0))
    labels, weight = (torch.from_numpy(mixed[key].array)[None] for key in ("seg", "weight"))
    loss = CrossEntropyLoss()(scores, labels.long(), weight=weight)
    logs = -scores.log_softmax(1)[0, :, 0]
    share = float(weight[0, 0, 1])
    assert 0.5 <= share < 1
    assert float(loss) == pytest.approx(float(logs[0, 0] + share * logs[1, 1]) / 2, rel=1e-5)


@pytest.mark.parametrize("kind", [ClassMix, MixUp, CopyPaste])
def test_labels_are_needed(kind: Any) -> None:
    sample, other = plain(1), plain(2)
    del sample["seg"], other["seg"]
    with pytest.raises(DataError, match=f"{kind.__name__} needs labels"):
        kind(1.0)(sample, rng(), other)


def test_images_without_labels_can_be_cut_and_mixed() -> None:
    sample, other = plain(1), plain(2)
    del sample["seg"], other["seg"]
    assert set(np.unique(CutMix(1.0)(sample, rng(1), other).image)) == {1, 2}


def test_the_further_sample_is_transformed_first_and_kept_as_it_was() -> None:
    other = plain(2, (80, 120))
    other["seg"].array[:, 60:] = 3
    mixed = ClassMix(1.0, class_ratio=1.0, transforms=[Resize((12, 8)), RandomFlip(1.0)])(plain(1), rng(), other)
    assert mixed["seg"].array[0].tolist() == [3] * 6 + [2] * 6
    assert other.size == (80, 120)
    assert other["seg"].array[0, 0] == 2


# ---------------------------------------------------------------- copy-paste


def test_pasted_objects_bring_mask_box_and_label() -> None:
    sample, other = plain(1, (10, 10)), plain(2, (10, 10), label=0)
    for one, (top, left) in ((sample, (0, 0)), (other, (5, 5))):
        masks = np.zeros((10, 10, 2), np.uint8)
        masks[top : top + 3, left : left + 3, 0] = 1
        masks[top : top + 3, left : left + 3, 1] = one is other
        masks[9, 0, 1] = one is sample
        one["masks"] = InstanceMasks(masks)
        one["boxes"] = Boxes(np.array([[left, top, left + 3, top + 3]] * 2, np.float32))
    other["seg"].array[5:8, 5:8] = 4
    pasted = CopyPaste(1.0, classes=[4], max_num_pasted=1)(sample, rng(), other)
    assert pasted["masks"].array.shape[2] == len(pasted["boxes"].array) == 3
    assert pasted["boxes"].array[2].tolist() == [5, 5, 8, 8]
    inside = pasted["masks"].array[..., 2] > 0
    assert (pasted["seg"].array[inside] == 4).all()
    assert (pasted["seg"].array[~inside] == 1).all()
    assert (pasted.image[inside] == 2).all()


def test_without_instances_connected_regions_are_pasted() -> None:
    other = plain(0, (20, 20))
    other["seg"].array[2:8, 2:8] = 5
    other["seg"].array[12:18, 12:18] = 5
    other["seg"].array[0, 19] = 5  # a speck
    other["seg"].array[10, 0:20] = 6
    counts = set()
    for seed in range(20):
        pasted = CopyPaste(1.0, classes=[5], min_area=10)(plain(1, (20, 20)), rng(seed), other)
        labels = pasted["seg"].array
        assert set(np.unique(labels).tolist()) == {1, 5}
        assert labels[0, 19] == 1
        counts.add(int((labels == 5).sum()))
    assert counts == {36, 72}


def test_a_smaller_image_is_laid_anywhere_as_it_is() -> None:
    places = set()
    for seed in range(30):
        pasted = CopyPaste(1.0, min_area=1)(plain(1, (10, 10)), rng(seed), plain(2, (3, 3)))
        rows, columns = np.nonzero(pasted["seg"].array == 2)
        assert len(rows) == 9
        places.add((rows[0], columns[0]))
    assert len(places) > 10


def test_nothing_is_pasted_where_no_object_is_wanted() -> None:
    assert (CopyPaste(1.0, classes=[99])(plain(1), rng(), plain(2))["seg"].array == 1).all()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: RandomMosaic(1.5),
        lambda: RandomMosaic(1.0, (0, 5)),
        lambda: RandomMosaic(1.0, center_ratio_range=(0.5, 2.5)),
        lambda: CutMix(alpha=0),
        lambda: CutMix(prob=-1),
        lambda: CutMix(transforms=[CutMix()]),
        lambda: ClassMix(class_ratio=0),
        lambda: MixUp(alpha=-1),
        lambda: CopyPaste(max_num_pasted=0),
    ],
)
def test_wrong_arguments_are_refused(wrong: Any) -> None:
    with pytest.raises(UsageError):
        wrong()
