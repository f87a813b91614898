"""`LocalEngine` steps as a plain loop does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segkernel.data import Loader
from segkernel.engine import LocalEngine
from segkernel.errors import UsageError
from segkernel.inference import Preprocessor
from segkernel.nn import checkpoint_block
from segkernel.sample import Batch


def steps(model, engine, batches, accumulate=1, **options):
    preprocessor = Preprocessor().train()
    engine.prepare_model(model.train(), preprocessor)
    engine.prepare_optimizer(torch.optim.SGD(model.parameters(), lr=0.1), **options)
    return [engine.train_step(batches[i : i + accumulate]) for i in range(0, len(batches), accumulate)]


@pytest.fixture
def batches(rectangles):
    loader = iter(Loader(rectangles(), micro_batch=2).train_batches())
    return [next(loader) for _ in range(4)]


def test_a_step_equals_that_of_a_plain_loop(tiny_model, batches):
    ours, plain = tiny_model(dropout=0.0), tiny_model(dropout=0.0).train()
    losses = steps(ours, LocalEngine("cpu"), batches)
    optimizer, preprocessor = torch.optim.SGD(plain.parameters(), lr=0.1), Preprocessor().train()
    for batch, found in zip(batches, losses):
        optimizer.zero_grad()
        loss = plain.loss(*preprocessor(batch))["decode.loss_ce"]
        loss.backward()
        optimizer.step()
        assert torch.equal(found["loss"], loss.detach())
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), plain.state_dict().values()))


def test_accumulated_gradients_are_the_mean_of_the_micro_batches(tiny_model, batches):
    ours, plain = tiny_model(dropout=0.0), tiny_model(dropout=0.0).train()
    steps(ours, LocalEngine("cpu"), batches, accumulate=4)
    preprocessor = Preprocessor().train()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    (sum(plain.loss(*preprocessor(batch))["decode.loss_ce"] for batch in batches) / 4).backward()
    optimizer.step()
    for a, b in zip(ours.parameters(), plain.parameters()):
        torch.testing.assert_close(a, b)


def test_clipping_limits_the_gradient_and_reports_its_norm(tiny_model, batches):
    model = tiny_model(dropout=0.0)
    (losses,) = steps(model, LocalEngine("cpu"), batches[:1], clip_grad={"max_norm": 1e-3})
    norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    assert losses["grad_norm"] > 1e-3
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


class RecomputedConv(nn.Sequential):
    """A block with ``with_cp`` that counts its forward passes."""

    with_cp, passes = False, 0

    def forward(self, x):
        return checkpoint_block(self, x, forward=self._forward, enabled=self.with_cp)

    def _forward(self, x):
        self.passes += 1
        return super().forward(x)


def test_activation_checkpointing_computes_blocks_again_with_the_same_gradients(tiny_model, batches):
    models = tiny_model(dropout=0.0), tiny_model(dropout=0.0)
    for model in models:
        model.body = RecomputedConv(*model.body)
    steps(models[0], LocalEngine("cpu"), batches)
    steps(models[1], LocalEngine("cpu", activation_checkpointing=True), batches)
    assert [model.body.passes for model in models] == [4, 8]
    assert all(torch.equal(a, b) for a, b in zip(models[0].state_dict().values(), models[1].state_dict().values()))


def test_activation_checkpointing_of_a_model_without_such_blocks_is_refused(tiny_model, batches):
    with pytest.raises(UsageError, match="no block has with_cp"):
        steps(tiny_model(), LocalEngine("cpu", activation_checkpointing=True), batches)


def test_an_unavailable_device_is_named():
    with pytest.raises(UsageError, match="warp"):
        LocalEngine("warp")


def test_batches_pass_through_one_by_one():
    batches = [Batch(torch.full((1, 3, 2, 2), n)) for n in range(3)]
    taken = []

    def source():
        for batch in batches:
            taken.append(batch)
            yield batch

    moved = LocalEngine("cpu").transfer(source())
    assert next(moved).images is batches[0].images
    assert len(taken) == 1  # nothing is taken ahead
    assert [int(batch.images.max()) for batch in moved] == [1, 2]
