"""A step that runs out of memory is repeated with smaller micro-batches; the model simulates the limit."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from segkernel.data import Loader
from segkernel.errors import TrainingError
from segkernel.hooks.checkpoint import CheckpointHook
from segkernel.inference import Preprocessor
from segkernel.sample import LabelMap, Sample, collate
from segkernel.testing.toys import ToySegmentor, toy_batch
from segplug_training.cuda import CUDAEngine
from segplug_training.smaller_batches import SmallerBatches, is_out_of_memory, split


class Stripes:
    """Sixteen images of two classes."""

    classes, palette = ("a", "b"), ((255, 0, 0), (0, 0, 255))

    def __len__(self):
        return 16

    def __getitem__(self, index):
        labels = np.zeros((16, 16), np.uint8)
        labels[:, index:] = 1
        return Sample({"seg": LabelMap(labels)}, {"name": str(index)}, np.full((16, 16, 3), 10 * index, np.uint8))


class Limited(ToySegmentor):
    """Takes ``limit`` images at once."""

    limit = 1
    words = "CUDA out of memory. Tried to allocate 2.00 GiB"

    def loss(self, images, targets):
        self.seen = [*getattr(self, "seen", []), len(images)]
        if len(images) > self.limit:
            raise torch.cuda.OutOfMemoryError(self.words)
        return super().loss(images, targets)


def limited(limit):
    torch.manual_seed(0)
    model = Limited()
    model.limit = limit
    return model


@pytest.mark.parametrize(("limit", "seen"), [(4, [8, 4, 4]), (3, [8, 4, 2, 2, 2, 2]), (1, [8, 4, 2, *[1] * 8])])
def test_training_ends_where_smaller_micro_batches_from_the_beginning_do(make_runner, caplog, limit, seen):
    def trained(limit, micro_batch):
        model = limited(limit)
        loader = Loader(Stripes(), micro_batch=micro_batch)
        engine = CUDAEngine("cpu", channels_last=False)
        runner = make_runner(model=model, train=loader, batch_size=8, engine=engine, folder=f"{limit}-{micro_batch}")
        runner.train()
        return model

    size = max(size for size in (1, 2, 4) if size <= limit)
    given, wanted = trained(limit, 8), trained(100, size)
    assert given.seen[: len(seen)] == seen
    assert set(given.seen[len(seen) :]) <= {size, 1}, "what was learnt holds; validation takes one image"
    assert all(torch.equal(a, b) for a, b in zip(given.parameters(), wanted.parameters(), strict=True))
    assert f"micro-batches of {size} samples from now on; the batch of a step stays the same" in caplog.text


def test_a_resumed_run_does_not_run_out_again(make_runner):
    def runner(folder):
        options = {"model": limited(2), "train": Loader(Stripes(), micro_batch=8), "batch_size": 8, "validate": False}
        return make_runner(CheckpointHook(interval=2), engine=CUDAEngine("cpu"), folder=folder, **options)

    first, again = runner("first"), runner("again")
    first.train()
    again.resume(first.work_dir / "checkpoints" / "iter_0000002.pt")
    again.train()
    assert set(again.model.seen) == {2}


def engine_with(model, **options):
    engine = CUDAEngine("cpu", **options)
    engine.prepare_model(model.train(), Preprocessor().train())
    engine.prepare_optimizer(torch.optim.SGD(model.parameters(), lr=0.1))
    return engine


def test_one_sample_that_does_not_fit_is_an_error(make_runner):
    with pytest.raises(TrainingError, match="out of memory"):
        make_runner(model=limited(0), engine=CUDAEngine("cpu")).train()


@pytest.mark.parametrize("case", ["another error", "switched off", "in the update"])
def test_other_errors_are_raised_immediately(case):
    model, options = limited(1), {}
    if case == "another error":
        model.words = "shapes do not match"
        model.loss = lambda images, targets: (_ for _ in ()).throw(RuntimeError(model.words))
    engine = engine_with(model, **({"smaller_batches": False} if case == "switched off" else options))
    if case == "in the update":
        model.limit, tries = 100, []

        def fail(*_):
            tries.append(1)
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

        engine.scaler.step = fail
    with pytest.raises(RuntimeError, match="match" if case == "another error" else "out of memory"):
        engine.train_step([toy_batch(0)])
    assert case != "in the update" or tries == [1], "parameters may have changed: it is not made again"
    assert engine.smaller_batches is None or engine.smaller_batches.parts == 1


def test_one_of_several_ranks_announces_what_would_fit_and_does_not_repeat_the_step(caplog):
    model, announced = limited(2), []
    engine = engine_with(model)
    engine.smaller_batches = SmallerBatches(announced.append)
    images = collate([Stripes()[index] for index in range(8)])
    with pytest.raises(torch.cuda.OutOfMemoryError):
        engine.train_step([images])
    assert (announced, model.seen) == ([2], [8])
    assert "micro-batches of 4 samples" in caplog.text
    engine.smaller_batches = SmallerBatches(announced.append, parts=4)
    engine.load_state_dict({"parts": 1})  # a checkpoint from before
    engine.train_step([images])
    assert model.seen == [8, 2, 2, 2, 2]


def test_the_parts_are_the_batch():
    batch = toy_batch(3)
    batch.targets.fields["boxes"] = [torch.ones(1), torch.zeros(2)]
    first, second = split(batch, 2)
    assert torch.equal(torch.cat([first.images, second.images]), batch.images)
    assert torch.equal(torch.cat([first.targets["seg"], second.targets["seg"]]), batch.targets["seg"])
    assert [len(part.targets["boxes"][0]) for part in (first, second)] == [1, 2]
    assert first.sizes == batch.sizes[:1]


def test_memory_errors_of_the_system_are_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_memory_errors_of_other_libraries_are_recognised():
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("could not create a primitive"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


EXHAUSTED = """
import resource, torch
from segkernel.inference import Preprocessor
from segkernel.sample import Batch, Targets
from segkernel.testing.toys import ToySegmentor
from segplug_training.cuda import CUDAEngine
def batch(count, side):
    images = torch.zeros(count, 3, side, side, dtype=torch.uint8)
    return Batch(images, Targets({"seg": images[:, 0]}), [(side, side)] * count, [{}] * count)
model, engine = ToySegmentor(), CUDAEngine("cpu", threads=1)
engine.prepare_model(model, Preprocessor().train())
engine.prepare_optimizer(torch.optim.SGD(model.parameters(), lr=0.1))
engine.train_step([batch(1, 512)])
used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData")) << 10
resource.setrlimit(resource.RLIMIT_DATA, (used + (150 << 20), resource.RLIM_INFINITY))
loss = engine.train_step([batch(16, 512)])["loss"]
print(engine.smaller_batches.parts, bool(loss.isfinite()))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA")
def test_a_step_that_exhausts_the_memory_of_the_process_is_repeated():
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}  # the stack of another thread may not fit
    done = subprocess.run([sys.executable, "-c", EXHAUSTED], capture_output=True, text=True, check=False, env=alone)
    parts, finite = done.stdout.split()
    assert finite == "True", done.stderr
    assert int(parts) > 1
