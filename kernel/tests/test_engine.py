"""`LocalEngine` steps as a plain loop does."""

from __future__ import annotations

import pytest
import torch

from segkernel.data import Loader
from segkernel.engine import LocalEngine
from segkernel.errors import UsageError
from segkernel.inference import Preprocessor


def steps(model, engine, batches, accumulate=1, **options):
    preprocessor = Preprocessor().train()
    engine.prepare_model(model.train(), preprocessor)
    engine.prepare_optimizer(torch.optim.SGD(model.parameters(), lr=0.1), **options)
    return [engine.train_step(batches[i : i + accumulate]) for i in range(0, len(batches), accumulate)]


@pytest.fixture
def batches(rectangles):
    loader = iter(Loader(rectangles(), micro_batch=2).train_batches())
    return [next(loader) for _ in range(4)]


def test_a_step_is_a_plain_loop_s_step(tiny_model, batches):
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


@pytest.mark.parametrize(
    "options", [{"amp": True}, {"channels_last": True}, {"amp": "bfloat16", "channels_last": True}]
)
def test_half_precision_and_channels_last_stay_near(tiny_model, batches, options):
    exact = steps(tiny_model(dropout=0.0), LocalEngine("cpu"), batches)
    near = steps(tiny_model(dropout=0.0), LocalEngine("cpu", **options), batches)
    for a, b in zip(exact, near):
        assert float(a["loss"]) == pytest.approx(float(b["loss"]), rel=0.03)


@pytest.mark.parametrize("supported", [True, False])
def test_a_processor_without_bfloat16_stays_in_float32(monkeypatch, caplog, supported):
    monkeypatch.setattr("segkernel.engine._computes_in_bfloat16", lambda: supported)
    assert LocalEngine("cpu", amp=True).amp is (torch.bfloat16 if supported else None)
    assert ("no bfloat16" in caplog.text) is not supported


def test_a_loss_scale_that_is_given_stays(tiny_model, batches):
    engine = LocalEngine("cpu", amp="float16", loss_scale=512.0)
    steps(tiny_model(), engine, batches)
    assert engine.scaler.get_scale() == 512.0
    assert LocalEngine("cpu", amp="float16").scaler.get_scale() > 512.0


def test_a_device_that_is_not_there_is_named():
    with pytest.raises(UsageError, match="warp"):
        LocalEngine("warp")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("amp", [False, "float16", "bfloat16"])
def test_cuda_lowers_the_loss(tiny_model, batches, amp):
    losses = steps(tiny_model(), LocalEngine("cuda", amp=amp), batches * 5)
    assert losses[-1]["loss"] < losses[0]["loss"]
