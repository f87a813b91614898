"""`CUDAEngine` steps as `LocalEngine` does, and its options do what they say."""

from __future__ import annotations

import pytest
import torch

from segkernel.config import load_config
from segkernel.engine import LocalEngine
from segkernel.experiment import make_runner
from segkernel.inference import Preprocessor
from segkernel.testing.toys import ToySegmentor, toy_batch
from segplug_training.cuda import CUDAEngine


def steps(engine, count=4, **options):
    """Train a small model for some steps; return what each gave, and the model."""
    torch.manual_seed(0)
    model = ToySegmentor().train()
    engine.prepare_model(model, Preprocessor().train())
    engine.prepare_optimizer(torch.optim.SGD(model.parameters(), lr=0.1), **options)
    return [engine.train_step([toy_batch(index)]) for index in range(count)], model


def test_without_options_it_is_a_local_engine():
    (expected, plain), (found, ours) = steps(LocalEngine("cpu")), steps(CUDAEngine("cpu"))
    assert all(torch.equal(a["loss"], b["loss"]) for a, b in zip(expected, found))
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), ours.parameters()))


@pytest.mark.parametrize(
    "options", [{"amp": True}, {"channels_last": True}, {"amp": "bfloat16", "channels_last": True}, {"tf32": True}]
)
def test_half_precision_and_channels_last_stay_near(options):
    (exact, _), (near, model) = steps(LocalEngine("cpu")), steps(CUDAEngine("cpu", **options))
    for a, b in zip(exact, near):
        assert float(a["loss"]) == pytest.approx(float(b["loss"]), rel=0.03)
    weights = [parameter for parameter in model.parameters() if parameter.ndim == 4 and parameter.shape[2] > 1]
    last = [weight.is_contiguous(memory_format=torch.channels_last) for weight in weights]
    assert all(last) if options.get("channels_last") else not any(last)


@pytest.mark.parametrize("supported", [True, False])
def test_a_processor_without_bfloat16_stays_in_float32(monkeypatch, caplog, supported):
    monkeypatch.setattr("segplug_training.cuda._computes_in_bfloat16", lambda: supported)
    assert CUDAEngine("cpu", amp=True).amp is (torch.bfloat16 if supported else None)
    assert ("no bfloat16" in caplog.text) is not supported


def test_a_loss_scale_that_is_given_stays():
    engine = CUDAEngine("cpu", amp="float16", loss_scale=512.0)
    steps(engine)
    assert engine.scaler.get_scale() == 512.0
    assert CUDAEngine("cpu", amp="float16").scaler.get_scale() > 512.0


def test_a_scaled_gradient_is_clipped_at_its_own_size():
    (expected, plain), (found, ours) = (
        steps(engine, clip_grad={"max_norm": 1e-2})
        for engine in (LocalEngine("cpu"), CUDAEngine("cpu", amp="float16", loss_scale=512.0))
    )
    for a, b in zip(expected, found):
        assert float(a["grad_norm"]) == pytest.approx(float(b["grad_norm"]), rel=0.1)
    for a, b in zip(plain.parameters(), ours.parameters()):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-2)


def test_denormals_are_flushed_on_demand():
    denormal = torch.tensor(1e-38)
    CUDAEngine("cpu")
    assert denormal / 100 > 0
    try:
        CUDAEngine("cpu", flush_denormals=True)
        assert denormal / 100 == 0
    finally:
        torch.set_flush_denormal(False)


def test_a_config_without_a_type_means_it():
    changes = ["model={type: segkernel.testing.toys:ToySegmentor}", "engine.device=cpu", "engine.amp=true"]
    engine = make_runner(load_config({}, changes), training=False).engine
    assert type(engine) is CUDAEngine


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("amp", [False, "float16", "bfloat16"])
def test_cuda_lowers_the_loss(amp):
    losses, _ = steps(CUDAEngine("cuda", amp=amp), 20)
    assert losses[-1]["loss"] < losses[0]["loss"]
