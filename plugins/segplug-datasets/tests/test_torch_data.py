"""A runner takes torch's data sets and loaders, and says what to wrap where it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, Subset, WeightedRandomSampler

from segkernel import Loader, Runner
from segkernel.errors import DataError, SegKernelError, UsageError
from segplug_datasets import TorchDataset
from segplug_datasets.street_scenes import StreetScenes
from segplug_datasets.torch_data import adapt

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 10, 3), np.uint8)
MASK = np.zeros((8, 10), np.uint8)
MASK[2:5], MASK[7] = 1, 255


class Pairs(torch.utils.data.Dataset):
    """Entries that a function makes."""

    def __init__(self, make: Any, classes: tuple[str, ...] | None = ("ground", "crack")) -> None:
        self.make = make
        if classes:
            self.classes = classes

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Any:
        return self.make()


IMAGE = torch.from_numpy(PIXELS)
PALETTE = Image.fromarray(MASK, "P")
PALETTE.putpalette([255, 0, 0, 0, 255, 0])
FORMS = {
    "arrays": lambda: (PIXELS, MASK),
    "tensors, 255 ignored": lambda: (IMAGE.permute(2, 0, 1) / 255, torch.from_numpy(MASK).long()),
    "tensors, -100 ignored": lambda: [
        IMAGE,
        torch.where(torch.from_numpy(MASK) == 255, -100, torch.from_numpy(MASK).long()),
    ],
    "PIL, a palette": lambda: (Image.fromarray(PIXELS), PALETTE),
    "a dict": lambda: {"image": PIXELS, "mask": torch.from_numpy(MASK)[None], "id": 3},
    "a processor's dict": lambda: {"pixel_values": IMAGE.permute(2, 0, 1), "labels": MASK},
}


@pytest.mark.parametrize("form", FORMS)
def test_an_entry_is_a_sample_in_every_usual_form(form: str) -> None:
    sample = TorchDataset(Pairs(FORMS[form]))[-1]
    np.testing.assert_allclose(sample.image, PIXELS, atol=1e-4)
    assert np.array_equal(sample["seg"].array, MASK)
    assert sample["seg"].array.dtype == np.uint8


WRONG = {
    "must be a pair": (lambda: PIXELS, "Pairs\\[0\\]: an entry is a pair .* not ndarray"),
    "another key": (lambda: {"image": PIXELS, "truth": MASK}, "the dict has the keys image, truth: it needs"),
    "normalised": (lambda: (IMAGE / 60.0 - 2, MASK), r"float \(0 to 1\), not normalised; this is float32 from -2"),
    "another size": (lambda: (PIXELS, MASK[1:]), r"the mask is \(7, 10\) \(height, width\), the image \(8, 10\)"),
    "an unknown class": (
        lambda: (PIXELS, MASK + 3),
        "the mask has the ids 2, 3, 4, but there are 2 classes",
    ),
    "colours": (lambda: (PIXELS, PIXELS), r"a mask is class ids \(H, W\), integers, not \(8, 10, 3\) uint8"),
    "probabilities": (lambda: (PIXELS, MASK / 2), "not .* float64"),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_entry_that_cannot_be_used_is_named(case: str) -> None:
    make, said = WRONG[case]
    with pytest.raises((DataError, UsageError), match=said):
        TorchDataset(Pairs(make))[0]


def test_images_in_the_wrong_range_stop_a_run_at_once(tmp_path: Path) -> None:
    module, pairs = nn.Conv2d(3, 2, 1), Pairs(WRONG["normalised"][0])
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    with pytest.raises(UsageError, match=r"^Pairs\[\d\]: an image is uint8") as caught:
        Runner(module, train=pairs, optimizer=optimizer, iterations=1, work_dir=tmp_path / "run").run()
    assert "\n" not in str(caught.value)


def test_a_runner_trains_a_plain_module_on_torch_s_loader(tmp_path: Path) -> None:
    module = nn.Conv2d(3, 2, 1)
    before = module.weight.detach().clone()
    options: dict[str, Any] = {"optimizer": torch.optim.SGD(module.parameters(), 0.1), "work_dir": tmp_path / "run"}
    pairs = Pairs(FORMS["arrays"])
    runner = Runner(module, train=DataLoader(pairs, batch_size=3, shuffle=True), val=pairs, epochs=2, seed=5, **options)
    assert (runner.train_set.micro_batch, runner.train_set.shuffle, runner.train_set.seed) == (3, True, 5)
    assert runner.labels.classes == ("ground", "crack")
    runner.run()
    assert runner.iteration == 4
    assert not torch.equal(module.weight, before)
    saved = torch.load(runner.best_checkpoint(), weights_only=True)
    assert saved["state_dict"].keys() == {"weight", "bias"}, "the keys are the module's own"


def test_a_bare_data_set_is_trained_in_batches_of_the_run_and_validated_image_by_image() -> None:
    pairs, module = Pairs(FORMS["arrays"]), nn.Conv2d(3, 2, 1)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    runner = Runner(module, train=pairs, val=pairs, optimizer=optimizer, iterations=1, batch_size=4)
    assert (runner.train_set.micro_batch, runner.val_set.micro_batch) == (4, 1)


def test_classes_come_from_the_inner_set_the_model_or_a_wrapper() -> None:
    pairs, bare = Pairs(FORMS["arrays"]), Pairs(FORMS["arrays"], classes=None)
    model = type("Model", (), {"outputs": {"seg": type("Output", (), {"classes": 2})}})
    assert adapt(Subset(pairs, [1, 2]), None, 0).classes == ("ground", "crack")
    assert adapt(bare, model, 0).classes == ("class 0", "class 1")
    assert TorchDataset(bare, classes=["a", "b"], palette=[(1, 2, 3), (4, 5, 6)]).palette == ((1, 2, 3), (4, 5, 6))
    with pytest.raises(UsageError, match=r"wrap it: segplug_datasets.TorchDataset\(Pairs\(...\), classes=\[...\]\)"):
        Runner(nn.Conv2d(3, 2, 1), train=bare, iterations=1)


def test_a_loader_or_subset_of_our_own_data_sets_keeps_their_samples() -> None:
    scenes = StreetScenes(size=(64, 96), length=4)
    loader = Runner(nn.Conv2d(3, 8, 1), test=DataLoader(scenes, batch_size=2)).test_set
    assert isinstance(loader, Loader)
    assert loader.dataset is scenes
    part = adapt(Subset(scenes, [3]), None, 0)
    assert (part.classes, part.palette) == (tuple(scenes.classes), tuple(scenes.palette))
    assert np.array_equal(part[0].image, scenes[3].image)


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter([])


PAIRS = Pairs(FORMS["arrays"])
REFUSED = {
    "an own collate_fn": DataLoader(PAIRS, collate_fn=list),
    "an own sampler": DataLoader(PAIRS, sampler=WeightedRandomSampler([1.0] * 6, 6)),
    "a stream": DataLoader(Stream()),
    "is a stream": Stream(),
    "it needs classes, palette, a length": 3,
    "a str is no data set": "images/",
    "a generator is no data set": (entry for entry in ()),
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_a_run_cannot_resume_is_refused_with_what_to_do(said: str) -> None:
    with pytest.raises(SegKernelError, match=said) as caught:
        Runner(nn.Conv2d(3, 2, 1), train=REFUSED[said], iterations=1)
    assert "\n" not in str(caught.value)
