"""Samplers: class shares, reproducibility, resuming, ranks; and the index of the classes in each image."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkernel.data import Loader
from segkernel.errors import DataError, UsageError
from segkernel.interfaces.data import Sampler
from segkernel.sample import LabelMap, Sample
from segplug_datasets import class_index as class_index_module
from segplug_datasets import image
from segplug_datasets.cache import CachedDataset
from segplug_datasets.class_index import class_index, holds
from segplug_datasets.concat import ConcatDataset, MappedDataset
from segplug_datasets.files import FolderDataset
from segplug_datasets.packed import PackedDataset, pack, verify_pack
from segplug_datasets.samplers import AspectRatioGroups, BalancedSampler, WeightedSampler, proportional, shares_of
from segplug_datasets.street_scenes import StreetScenes
from segplug_datasets.transforms.class_crop import ClassAwareCrop
from segplug_datasets.wrappers import IndexedDataset

CLASSES = ("wall", "door", "window")


def write(root: Path, masks: list[Any], sizes: list[tuple[int, int]] | None = None) -> FolderDataset:
    """Write an image of its own grey for each mask; a mask is an array or one value."""
    for number, mask in enumerate(masks):
        size = sizes[number] if sizes else (16, 24)
        image.write(root / f"images/{number:03d}.png", np.full((*size, 3), number, np.uint8))
        image.write_mask(root / f"masks/{number:03d}.png", np.broadcast_to(np.array(mask), size).copy())
    return FolderDataset("images", "masks", classes=CLASSES, data_root=root)


@pytest.fixture
def rooms(tmp_path: Path) -> FolderDataset:
    """Ten images: eight of walls, one with a door and one with a window in its lower right corner."""
    masks: list[Any] = [0] * 8 + [np.zeros((16, 24), int) for _ in range(2)]
    masks[8][-2:, -3:], masks[9][-2:, -3:] = 1, 2
    return write(tmp_path / "rooms", masks)


# ---------------------------------------------------------------- contents


def test_the_index_counts_pixels_and_says_where_they_are(rooms: FolderDataset) -> None:
    index = class_index(rooms)
    assert index.pixels.tolist() == [[384, 0, 0]] * 8 + [[378, 6, 0], [378, 0, 6]]
    assert index.sizes.tolist() == [[16, 24]] * 10
    assert np.argwhere(holds(index.cells[8], 1)).tolist() == [[7, 7]]  # a cell is 2 x 3 pixels
    assert holds(index.cells[8], 0).sum() == 63
    assert not holds(index.cells[8], 2).any()


def test_the_index_is_kept_beside_the_data_until_the_list_changes(rooms: FolderDataset, monkeypatch: Any) -> None:
    first = class_index(rooms)
    (kept,) = Path(rooms.data_root).glob(".class-index-*.npz")
    with monkeypatch.context() as patch:
        patch.setattr(class_index_module, "_count", None)  # counting again would fail
        again = class_index(FolderDataset("images", "masks", classes=CLASSES, data_root=rooms.data_root))
    assert all((a == b).all() for a, b in zip((first.pixels, first.cells), (again.pixels, again.cells)))
    write(Path(rooms.data_root), [2] * 11)
    assert len(class_index(FolderDataset("images", "masks", classes=CLASSES, data_root=rooms.data_root))) == 11
    kept.write_bytes(b"damaged")
    assert class_index(rooms).pixels[0].tolist() == [0, 0, 384]


def test_the_index_is_the_same_from_several_processes(rooms: FolderDataset, tmp_path: Path) -> None:
    alone, together = (class_index(rooms, tmp_path / str(n), workers=n) for n in (0, 1))
    assert (alone.pixels == together.pixels).all()
    assert (alone.cells == together.cells).all()


def test_the_index_of_several_sets_and_of_mapped_ones(rooms: FolderDataset) -> None:
    mapped = MappedDataset(rooms, ["opening", "wall"], {"door": "opening", "window": "opening"})
    index = class_index(CachedDataset(ConcatDataset([mapped, mapped])))
    assert index.pixels[[0, 8, 19]].tolist() == [[0, 384], [6, 378], [6, 378]]
    assert np.argwhere(holds(index.cells[19], 0)).tolist() == [[7, 7]]


def test_the_index_of_a_packed_set_is_kept_in_the_pack(rooms: FolderDataset, tmp_path: Path) -> None:
    pack(rooms, tmp_path / "packed")
    assert class_index(PackedDataset(tmp_path / "packed")).pixels[9].tolist() == [378, 0, 6]
    assert len([*(tmp_path / "packed").glob(".class-index-*.npz")]) == 1
    assert class_index(PackedDataset(tmp_path / "packed")).pixels[8].tolist() == [378, 6, 0]
    assert not list(verify_pack(tmp_path / "packed"))


def test_unreadable_samples_hold_nothing(rooms: FolderDataset, caplog: pytest.LogCaptureFixture) -> None:
    Path(rooms.files[3][1]).write_bytes(b"no image")
    assert class_index(rooms).pixels[2:4].tolist() == [[384, 0, 0], [0, 0, 0]]
    assert "1 of 10 samples cannot be read" in caplog.text


def test_a_set_without_labels_has_no_index(rooms: FolderDataset) -> None:
    with pytest.raises(DataError, match="no label map"):
        class_index(FolderDataset("images", classes=CLASSES, data_root=rooms.data_root))


# ---------------------------------------------------------------- shares


def drawn(sampler: Sampler, dataset: Any, epochs: int = 40, batch: int = 4) -> Counter[int]:
    return Counter(int(i) for epoch in range(epochs) for i in sampler.order(dataset, 5, epoch, batch))


def test_repeat_factors_are_those_of_the_paper(rooms: FolderDataset) -> None:
    # A door is in a tenth of the images: sqrt(0.4 / 0.1) = 2.
    assert BalancedSampler(oversample_thr=0.4).weights(rooms).tolist() == [1.0] * 8 + [2.0, 2.0]
    counts = drawn(BalancedSampler(oversample_thr=0.4), rooms, epochs=60)
    assert sum(counts.values()) == 600
    assert counts[8] / counts[0] == pytest.approx(2, abs=0.3)


def test_class_aware_draws_every_class_alike(rooms: FolderDataset) -> None:
    # A third for walls in ten images, a third each for the door's and the window's one.
    weights = BalancedSampler("class-aware").weights(rooms)
    assert weights == pytest.approx([0.1] * 8 + [1.1, 1.1])
    counts = drawn(BalancedSampler("class-aware"), rooms, epochs=30)
    assert counts[8] / 300 == pytest.approx(1.1 / 3, abs=0.02)


def test_an_image_with_too_few_pixels_of_a_class_does_not_hold_it(rooms: FolderDataset) -> None:
    assert BalancedSampler(oversample_thr=0.4, min_pixels=7).weights(rooms).tolist() == [1.0] * 10
    with pytest.raises(UsageError, match="nothing to balance"):
        BalancedSampler(min_pixels=1000).order(rooms, 0, 0, 1)


def test_proportional_draws_round_up_or_down_only() -> None:
    weights = np.array([1.4, 0.0, 0.6, 3.0])
    for seed in range(50):
        counts = np.bincount(proportional(weights, 5, np.random.default_rng(seed)), minlength=4)
        assert counts[1] == 0
        assert (np.abs(counts - weights) < 1).all()


def test_shares_add_up() -> None:
    assert shares_of(10, [1, 1, 1]) == [4, 3, 3]
    assert shares_of(100, [1, 3]) == [25, 75]
    assert shares_of(10, [1000, 1]) == [9, 1]
    with pytest.raises(UsageError, match="too few"):
        shares_of(2, [1, 1, 1])


def test_parts_are_drawn_by_weight_and_gone_through_evenly(tmp_path: Path) -> None:
    both = ConcatDataset([write(tmp_path / "large", [0] * 9), write(tmp_path / "small", [1] * 3)])
    sampler = WeightedSampler([1, 3])
    for epoch in range(4):
        order = sampler.order(both, 0, epoch, 2)
        assert (order < 9).sum() == 3
    counts = drawn(sampler, both, epochs=6)  # 18 draws of the nine, 54 of the three
    assert {counts[i] for i in range(9)} == {2}
    assert {counts[i] for i in range(9, 12)} == {18}


def test_weights_come_from_the_data_set_when_it_has_some(tmp_path: Path) -> None:
    both: Any = ConcatDataset([write(tmp_path / "a", [0] * 6), write(tmp_path / "b", [0] * 6)])
    assert (WeightedSampler().order(both, 0, 0, 1) < 6).sum() == 6
    both.weights = (3.0, 1.0)
    assert (WeightedSampler().order(both, 0, 0, 1) < 6).sum() == 9


@pytest.mark.parametrize("weights", [[], [0, 1], [-1, 2]])
def test_bad_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(UsageError, match="above 0"):
        WeightedSampler(weights)


def test_weights_need_as_many_parts(rooms: FolderDataset) -> None:
    with pytest.raises(UsageError, match="not FolderDataset"):
        WeightedSampler([1, 1]).order(rooms, 0, 0, 1)
    with pytest.raises(UsageError, match="3 weights for 2"):
        WeightedSampler([1, 1, 1]).order(ConcatDataset([rooms, rooms]), 0, 0, 1)


# ---------------------------------------------------------------- shapes


@pytest.fixture
def shapes(tmp_path: Path) -> FolderDataset:
    """Upright and lying images in turn, 22 of them."""
    return write(tmp_path / "shapes", [0] * 22, [(30, 20) if n % 2 else (20, 30) for n in range(22)])


@pytest.mark.parametrize("batch", [2, 4, 5])
def test_batches_hold_one_shape(shapes: FolderDataset, batch: int) -> None:
    sampler = AspectRatioGroups()
    orders = [sampler.order(shapes, 3, epoch, batch) for epoch in range(5)]
    assert all(sorted(order) == list(range(22)) for order in orders)  # none lost, none twice
    batches = np.concatenate(orders)[: 110 // batch * batch].reshape(-1, batch)
    mixed = sum(len({index % 2 for index in indices}) > 1 for indices in batches.tolist())
    assert mixed <= 2 * 5  # one where the shapes meet and one where the epochs do; at random, most are
    assert mixed < len(batches) / 3


def test_the_shape_sampler_reduces_padding(shapes: FolderDataset) -> None:
    def area(sampler: Sampler | None) -> int:
        loader = Loader(shapes, micro_batch=2, sampler=sampler)
        return sum(batch.images.numel() for batch in islice(loader.train_batches(), 11))

    # Eleven of each shape: ten batches without padding and one of 30 x 30.
    assert area(AspectRatioGroups()) == 10 * 2 * 3 * 600 + 2 * 3 * 900
    assert area(None) > 44000


def test_a_batch_larger_than_the_set(shapes: FolderDataset) -> None:
    for epoch in range(3):
        assert sorted(AspectRatioGroups(batch_size=50).order(shapes, 0, epoch, 1)) == list(range(22))


@pytest.mark.parametrize("arguments", [{"window": 0}, {"batch_size": 0}])
def test_bad_shape_arguments_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="1 or more"):
        AspectRatioGroups(**arguments)


@pytest.mark.parametrize("threshold", [0, -1, 1.5])
def test_a_bad_threshold_is_refused(threshold: float) -> None:
    with pytest.raises(UsageError, match="oversample_thr"):
        BalancedSampler(oversample_thr=threshold)


# ---------------------------------------------------------------- exactness


SAMPLERS = {
    "balanced": lambda: BalancedSampler("class-aware"),
    "weighted": lambda: WeightedSampler([3, 1]),
    "shapes": lambda: AspectRatioGroups(batch_size=4),
}


def names(loader: Loader, count: int, **where: int) -> list[list[str]]:
    return [[meta["path"] for meta in batch.meta] for batch in islice(loader.train_batches(**where), count)]


@pytest.fixture
def scenes(rooms: FolderDataset, tmp_path: Path) -> ConcatDataset:
    return ConcatDataset([rooms, write(tmp_path / "more", [0, 1, 2], [(16, 24), (24, 16), (16, 16)])])


@pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)
def test_a_restart_continues_at_the_same_sample(scenes: ConcatDataset, make: Any) -> None:
    whole = names(Loader(scenes, micro_batch=4, sampler=make(), seed=3), 12)  # into the fourth epoch of 13
    for batches in (1, 3, 4, 10):
        rest = names(Loader(scenes, micro_batch=4, sampler=make(), seed=3), 12 - batches, position=4 * batches)
        assert whole[batches:] == rest


@pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)
def test_two_ranks_together_see_what_one_sees(scenes: ConcatDataset, make: Any) -> None:
    one = names(Loader(scenes, micro_batch=4, sampler=make()), 8)
    two = [names(Loader(scenes, micro_batch=2, sampler=make()), 8, rank=rank, world_size=2) for rank in (0, 1)]
    assert one == [first + second for first, second in zip(*two)]


def test_the_order_is_independent_of_workers(scenes: ConcatDataset) -> None:
    crop = ClassAwareCrop(8, prob=1.0)
    alone, together = (
        list(islice(Loader(scenes, [crop], 4, workers=n, sampler=BalancedSampler()).train_batches(), 5)) for n in (0, 2)
    )
    assert all((a.images == b.images).all() for a, b in zip(alone, together))


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (2, 0), (3, 0), (3, 2), (5, 0), (12, 0)])
def test_evaluation_loses_and_repeats_nothing_across_ranks(rooms: FolderDataset, world: int, workers: int) -> None:
    seen = [
        meta["path"]
        for rank in range(world)
        for batch in Loader(rooms, micro_batch=3, workers=workers, sampler=BalancedSampler()).eval_batches(rank, world)
        for meta in batch.meta
    ]
    assert sorted(seen) == [path for _, path, _ in rooms.files]


def test_another_seed_or_epoch_changes_the_order(scenes: ConcatDataset) -> None:
    for make in SAMPLERS.values():
        first, second, third = (make().order(scenes, *where, 4).tolist() for where in ((0, 0), (1, 0), (0, 1)))
        assert first != second
        assert first != third


def test_a_sampler_of_the_wrong_length_is_refused(rooms: FolderDataset) -> None:
    class Short:
        def order(self, dataset: Any, seed: int, epoch: int, batch: int) -> list[int]:
            return [0]

    with pytest.raises(UsageError, match="draws 1 of 10"):
        next(Loader(rooms, sampler=Short()).train_batches())


def test_a_sampler_comes_from_a_config() -> None:
    from segkernel import build
    from segkernel.building import check
    from segkernel.config.sections import DataSection

    wanted = {"train": {"type": "StreetScenes", "length": 4}, "sampler": {"type": "BalancedSampler"}}
    assert isinstance(build(DataSection, wanted).sampler, BalancedSampler)
    (problem,) = check(DataSection, {"sampler": {"type": "BalancedSampler", "method": "none"}})
    assert "class-aware" in str(problem)


# ---------------------------------------------------------------- crops


def windows(crop: ClassAwareCrop, sample: Any, count: int = 60) -> list[np.ndarray]:
    return [crop(sample(), np.random.default_rng(seed))["seg"].array for seed in range(count)]


def test_every_crop_holds_the_class_it_went_for(rooms: FolderDataset) -> None:
    crop = ClassAwareCrop((4, 6), prob=1.0, classes=[1])
    assert all((window == 1).any() for window in windows(crop, lambda: rooms[8]))
    assert all(window.shape == (4, 6) for window in windows(crop, lambda: rooms[0]))  # no door: any window


def test_cells_of_the_index_give_what_looking_gives(rooms: FolderDataset) -> None:
    crop, indexed = ClassAwareCrop(5, prob=1.0), IndexedDataset(rooms)
    assert "class_cells" in indexed[8].meta
    for looked, known in zip(windows(crop, lambda: rooms[8]), windows(crop, lambda: indexed[8])):
        assert (looked == known).all()
    assert "class_cells" not in crop(indexed[8], np.random.default_rng(0)).meta


def test_cells_do_not_count_after_a_turn(rooms: FolderDataset) -> None:
    from segplug_datasets.geometry import Flip

    crop, indexed = ClassAwareCrop(5, prob=1.0, classes=[1]), IndexedDataset(rooms)
    assert all((window == 1).any() for window in windows(crop, lambda: indexed[8].apply(Flip("diagonal"))))


def test_small_classes_are_cut_out_as_often_as_large_ones(rooms: FolderDataset) -> None:
    doors = sum((window == 1).any() for window in windows(ClassAwareCrop(2, prob=1.0), lambda: rooms[8], 200))
    assert doors / 200 == pytest.approx(0.5, abs=0.12)
    never = sum((window == 1).any() for window in windows(ClassAwareCrop(2, prob=0.0), lambda: rooms[8], 200))
    assert never / 200 < 0.1


def test_where_nothing_is_labelled_any_window_does() -> None:
    sample = Sample({"seg": LabelMap(np.full((9, 9), 255, np.uint8))}, {}, np.zeros((9, 9, 3), np.uint8))
    assert ClassAwareCrop(4, prob=1.0)(sample, np.random.default_rng(0)).size == (4, 4)


def test_a_crop_larger_than_the_image_leaves_it(rooms: FolderDataset) -> None:
    assert ClassAwareCrop((100, 10), prob=1.0)(rooms[8], np.random.default_rng(0)).size == (16, 10)


def test_a_crop_needs_labels() -> None:
    with pytest.raises(DataError, match="needs labels"):
        ClassAwareCrop(4)(Sample(image=np.zeros((9, 9, 3), np.uint8)), np.random.default_rng(0))


@pytest.mark.parametrize(
    "arguments", [{"crop_size": 0}, {"crop_size": 4, "prob": 2}, {"crop_size": 4, "classes": []},
                  {"crop_size": 4, "classes": [255]}]
)  # fmt: skip
def test_bad_crop_arguments_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        ClassAwareCrop(**arguments)


def test_a_set_without_files_is_looked_at_each_time() -> None:
    index = class_index(StreetScenes(size=(32, 32), length=3))
    assert index.pixels.sum(1).tolist() == [1024] * 3
