"""`CUDAEngine` steps as `LocalEngine` does, and its options work as documented."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
import torch._functorch.config
from torch._dynamo.backends.common import aot_autograd

from segkernel.engine import LocalEngine
from segkernel.errors import UsageError
from segkernel.inference import Preprocessor
from segkernel.sample import Batch
from segkernel.testing.toys import ToySegmentor, toy_batch
from segplug_training.cores import available_cores, threads_per_rank
from segplug_training.cuda import CUDAEngine

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def prepare(engine, optimizer=torch.optim.SGD, clip_grad=None):
    """Return a small model in an engine's hands, ready to train."""
    torch.manual_seed(0)
    model = ToySegmentor().train()
    engine.prepare_model(model, Preprocessor().train())
    engine.prepare_optimizer(optimizer(model.parameters(), lr=0.1), clip_grad)
    return model


def steps(engine, count=4, **options):
    """Train a small model for some steps; return what each gave, and the model."""
    model = prepare(engine, **options)
    return [engine.train_step([toy_batch(index)]) for index in range(count)], model


def test_without_its_options_it_is_a_local_engine():
    (expected, plain), (found, ours) = (
        steps(LocalEngine("cpu")),
        steps(CUDAEngine("cpu", channels_last=False, fused=False)),
    )
    assert all(torch.equal(a["loss"], b["loss"]) for a, b in zip(expected, found))
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), ours.parameters()))


@pytest.mark.parametrize(("kind", "why"), [("LBFGS", "several times per step"), ("SparseAdam", "sparse gradients")])
def test_an_optimizer_that_cannot_take_a_step_is_refused_before_it(kind, why):
    with pytest.raises(UsageError, match=f"{kind} .*{why}.*; use AdamW or SGD"):
        prepare(CUDAEngine("cpu"), getattr(torch.optim, kind))


@pytest.mark.parametrize(
    "options", [{"amp": True}, {"channels_last": False}, {"amp": "bfloat16", "channels_last": True}, {"tf32": True}]
)
def test_half_precision_and_channels_last_stay_near(options):
    (exact, _), (near, model) = steps(LocalEngine("cpu")), steps(CUDAEngine("cpu", **options))
    for a, b in zip(exact, near):
        assert float(a["loss"]) == pytest.approx(float(b["loss"]), rel=0.03)
    weights = [parameter for parameter in model.parameters() if parameter.ndim == 4 and parameter.shape[2] > 1]
    last = [weight.is_contiguous(memory_format=torch.channels_last) for weight in weights]
    assert all(last) if options.get("channels_last", True) else not any(last)


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


# ---------------------------------------------------------------- compilation


def test_a_compiled_step_is_a_step(monkeypatch):
    """By the compiler's own front end; machine code takes a minute and is the slow test's."""
    compiled, compile = [], torch.compile

    def by_the_front_end(function, **options):
        compiled.append(options)
        return compile(function, backend="eager")

    monkeypatch.setattr(torch, "compile", by_the_front_end)
    (expected, _), (found, _) = steps(CUDAEngine("cpu")), steps(CUDAEngine("cpu", compile="max-autotune"))
    assert [float(a["loss"]) for a in expected] == pytest.approx([float(b["loss"]) for b in found])
    assert compiled == [{"mode": "max-autotune"}]


@pytest.mark.parametrize("backward_only", [False, True])
def test_an_uncompilable_model_runs_eagerly_with_one_warning(monkeypatch, caplog, backward_only):
    def broken(graph, inputs):
        raise OSError("no C++ compiler")

    if backward_only and not hasattr(torch._functorch.config, "force_non_lazy_backward_lowering"):
        pytest.skip("this torch compiles the backward pass when it runs")
    compile = torch.compile
    backend = aot_autograd(fw_compiler=lambda graph, _: graph, bw_compiler=broken) if backward_only else broken
    monkeypatch.setattr(torch, "compile", lambda function, mode: compile(function, backend=backend))
    (expected, plain), (found, ours) = steps(CUDAEngine("cpu")), steps(CUDAEngine("cpu", compile=True))
    assert [float(a["loss"]) for a in expected] == [float(b["loss"]) for b in found]
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), ours.parameters()))
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "no C++ compiler" in record.getMessage()


def test_an_error_of_the_model_is_not_attributed_to_the_compiler(monkeypatch):
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, mode: compile(function, backend="eager"))
    engine = CUDAEngine("cpu", compile=True)
    prepare(engine)
    wrong = toy_batch(0)
    wrong.targets["seg"] = wrong.targets["seg"][:, :5, :5]
    wrong.images = wrong.images[:1]
    with pytest.raises((RuntimeError, ValueError), match="batch"):
        engine.train_step([wrong])


@pytest.mark.slow
def test_machine_code_gives_the_same_losses(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    engine = CUDAEngine("cpu", compile=True, compile_cache=str(tmp_path))
    (expected, _), (found, _) = steps(CUDAEngine("cpu")), steps(engine)
    assert not engine.loss_of.failed
    assert [float(a["loss"]) for a in expected] == pytest.approx([float(b["loss"]) for b in found], rel=1e-5)
    assert any(tmp_path.iterdir())


# ---------------------------------------------------------------- optimisers


@pytest.mark.parametrize(
    ("made", "fused"),
    [
        (torch.optim.AdamW, True),
        (torch.optim.SGD, True),
        (torch.optim.RMSprop, None),
        (lambda parameters, lr: torch.optim.Adam(parameters, lr, foreach=True), None),
        (lambda parameters, lr: torch.optim.Adam(parameters, lr, fused=False), False),
    ],
)
def test_an_optimizer_is_fused_where_torch_can_and_nobody_chose(made, fused):
    engine = CUDAEngine("cpu")
    prepare(engine, made)
    assert engine.optimizer.param_groups[0].get("fused") is fused
    engine.train_step([toy_batch(0)])


def test_a_checkpoint_s_way_of_computing_is_not_taken_over():
    plain, fused = CUDAEngine("cpu", fused=False), CUDAEngine("cpu")
    for engine in (plain, fused):
        prepare(engine, torch.optim.AdamW)
        engine.train_step([toy_batch(0)])
    saved = copy.deepcopy(fused.optimizer_state())
    plain.load_model_state(copy.deepcopy(fused.model_state()))
    plain.load_optimizer_state(saved)
    assert plain.optimizer.param_groups[0]["fused"] is None
    for engine in (plain, fused):
        engine.train_step([toy_batch(1)])
    for a, b in zip(plain.segmentor.parameters(), fused.segmentor.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


# ---------------------------------------------------------------- activation checkpointing


def test_named_modules_are_computed_again_with_the_same_gradients():
    engine = CUDAEngine("cpu", activation_checkpointing=["backbone.stages", "decode_head"])
    passes = []
    (expected, plain), model = steps(CUDAEngine("cpu")), prepare(engine)
    names = model.state_dict().keys()
    model.backbone.stages[0][0].register_forward_hook(lambda *_: passes.append(0))
    found = [engine.train_step([toy_batch(index)]) for index in range(4)]
    assert len(passes) == 8
    assert names == plain.state_dict().keys()
    assert [float(a["loss"]) for a in expected] == [float(b["loss"]) for b in found]
    for a, b in zip(plain.parameters(), model.parameters()):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("names", "said"), [(["backbone.stage"], "did you mean"), (True, "with_cp")])
def test_a_module_that_is_not_there_is_named(names, said):
    with pytest.raises(UsageError, match=said):
        prepare(CUDAEngine("cpu", activation_checkpointing=names))


# ---------------------------------------------------------------- cores


@pytest.mark.parametrize(
    ("files", "cores"),
    [({"cpu.max": "50000 100000"}, 1), ({"cpu.max": "max 100000"}, None), ({}, None),
     ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
     ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None)],
)  # fmt: skip
def test_a_container_s_share_limits_the_cores(tmp_path, files, cores):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_cores(tmp_path) == (cores or available_cores(tmp_path / "nothing"))


def test_the_ranks_of_a_machine_share_its_cores(monkeypatch):
    monkeypatch.setattr("segplug_training.cores.available_cores", lambda: 8)
    assert threads_per_rank() == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert threads_per_rank() == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "9")
    assert threads_per_rank() == 1


# ---------------------------------------------------------------- GPUs


@NEEDS_GPU
@pytest.mark.parametrize("options", [{}, {"amp": "float16"}, {"amp": "bfloat16"}, {"compile": "reduce-overhead"}])
def test_cuda_lowers_the_loss(options):
    losses, _ = steps(CUDAEngine("cuda", **options), 20)
    assert losses[-1]["loss"] < losses[0]["loss"]


@NEEDS_GPU
@pytest.mark.parametrize("count", [0, 1, 5])
def test_on_cuda_batches_arrive_whole(count):
    engine = CUDAEngine("cuda")
    batches = [Batch(torch.full((2, 3, 64, 64), n, dtype=torch.uint8)).pin_memory() for n in range(count)]
    sums = []
    for batch in engine.transfer(iter(batches)):
        assert batch.images.device.type == "cuda"
        sums.append(batch.images.float().mean())
    assert [float(value) for value in sums] == list(range(count))
