"""Train small models for some steps, each rank on its part of every batch; ``equivalence.py FOLDER`` by torchrun.

Labels are ignored here and there, so that ranks differ in how many pixels count.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from segkernel import build
from segkernel.engine import LocalEngine
from segkernel.inference import Preprocessor
from segkernel.interfaces.model import Engine
from segkernel.sample import Batch, Targets
from segplug_training.ema import SOURCE, EMAHook
from segplug_training.freeze import FreezeHook

STEPS, MICRO_BATCHES, IMAGES, SIZE, CLASSES = 20, 2, 4, (32, 32), 5
WEIGHTED = {"type": "CrossEntropyLoss", "avg_non_ignore": True, "class_weight": [1.0, 0.5, 2.0, 1.5, 1.0]}
CASES: dict[str, dict[str, Any]] = {
    "ddp": {
        "engine": {"type": "DDPEngine", "activation_checkpointing": True, "static_graph": True},
        "head": {"loss_decode": WEIGHTED},
    },
    "float32": {
        "engine": {"type": "DDPEngine"},
        "model": "EncoderDecoder",
        "head": {"loss_decode": WEIGHTED},
        "tolerance": 1e-5,
    },
    "three images on one rank and one on the other": {
        "engine": {"type": "DDPEngine"},
        "head": {"loss_decode": WEIGHTED},
        "first": 3,
    },
    "pixels below a probability": {
        "engine": {"type": "DDPEngine"},
        "head": {"sampler": {"type": "OHEMPixelSampler", "thresh": 0.05, "min_kept": 300}},
    },
    "pixels of the highest loss": {  # with aligned corners no two pixels are alike: equal losses would tie
        "engine": {"type": "DDPEngine"},
        "head": {"sampler": {"type": "OHEMPixelSampler", "min_kept": 300}, "align_corners": True},
    },
    "a loss of hard pixels": {
        "engine": {"type": "DDPEngine"},
        "head": {"loss_decode": {"type": "OhemCrossEntropy", "thres": 0.05, "min_kept": 900}},
    },
    "parts that are frozen for a while": {
        "engine": {"type": "DDPEngine", "static_graph": True},
        "head": {"loss_decode": WEIGHTED},
        "freeze": [{"parts": ["backbone"], "begin": 3, "end": 12}, {"parts": ["decode_head.convs"], "begin": 8}],
    },
    "parts that are never used": {
        "engine": {"type": "DDPEngine", "find_unused_parameters": True},
        "freeze": [{"parts": ["backbone.layer1"], "begin": 5}],
        "spare": True,
    },
    "fsdp": {
        "engine": {"type": "FSDPEngine", "activation_checkpointing": True},
        "head": {"loss_decode": WEIGHTED},
        "optimizer": torch.optim.AdamW,
    },
    "fsdp, bfloat16": {
        "engine": {"type": "FSDPEngine", "param_dtype": "bfloat16", "shard": ["backbone.layer*", "decode_head"]},
        "model": "EncoderDecoder",
        "tolerance": 0.1,
    },
}  # fmt: skip
SHARDED = {
    f"fsdp, {name}": name
    for name in ("float32", "three images on one rank and one on the other", "pixels below a probability",
                 "pixels of the highest loss", "a loss of hard pixels")
}  # fmt: skip
"""The cases that are repeated with `FSDPEngine`: the engine of a plain loop gives the same for both."""
CASES |= {name: {**CASES[case], "engine": {"type": "FSDPEngine"}} for name, case in SHARDED.items()}


def make_model(case: Mapping[str, Any]) -> Any:
    """Build a ResNet-18 of an eighth of its width, in float64 unless the case says otherwise."""
    torch.manual_seed(0)
    norm = {"norm_cfg": {"type": "SyncBN"}}
    backbone = {"type": "ResNetV1c", "depth": 18, "base_channels": 8, "stem_channels": 8}
    backbone |= {"strides": [1, 1, 1, 1], **norm}
    head = {"type": "FCNHead", "in_channels": 64, "channels": 16, "num_convs": 1, "concat_input": False, **norm}
    head |= {"num_classes": CLASSES, "dropout_ratio": 0.0, **case.get("head", {})}
    kind = case.get("model", "double_precision:DoubleEncoderDecoder")
    return build("segmentors", {"type": kind, "backbone": backbone, "decode_head": head})


def make_batch(seed: int, rank: int, ranks: int, first: int = IMAGES // 2) -> Batch:
    """Return a rank's part of a batch of random images, the first of which has few labels.

    Args:
        seed: Seed of the batch.
        rank: The rank; of one, the part is the whole batch.
        ranks: One or two.
        first: Number of images on the first of two ranks.
    """
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (IMAGES, 3, *SIZE), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (IMAGES, *SIZE), generator=generator, dtype=torch.uint8)
    shares = torch.tensor([0.1, 0.5, 0.9, 1.0]).view(-1, 1, 1)
    labels[torch.rand(labels.shape, generator=generator) > shares] = 255
    part = slice(None) if ranks == 1 else slice(first) if rank == 0 else slice(first, None)
    count = len(images[part])
    return Batch(images[part], Targets({"seg": labels[part]}), [SIZE] * count, [{} for _ in range(count)])


def train(name: str, alone: bool = False, resume: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the states of model, average and optimiser after half of the steps and after all.

    Args:
        name: One of the cases.
        alone: By the engine of a plain loop, on whole batches.
        resume: A state to begin the second half with.
    """
    case = CASES[name]
    model = make_model(case)
    if case.get("spare"):
        model.spare = torch.nn.Linear(2, 2)
    options = {**case["engine"], "device": "cpu", "threads": 1}
    engine: Engine = LocalEngine("cpu") if alone else build("engines", options)
    engine.prepare_model(model.train(), Preprocessor().train())
    made = case.get("optimizer", torch.optim.SGD)
    engine.prepare_optimizer(made(model.parameters(), lr=0.01), {"max_norm": 5.0})
    if resume is not None:
        engine.load_model_state(resume["model"])
        engine.load_optimizer_state(resume["optimizer"])
    average, run = EMAHook(momentum=0.1), SimpleNamespace(engine=engine, model=model)
    freezing = [FreezeHook(**arguments) for arguments in case.get("freeze", ())]
    if resume is not None:
        average.load_state_dict({"steps": STEPS // 2})
        average.load_checkpoint(run, {"state_dict": resume["average"], SOURCE: resume["model"]})
    found = {}
    for step in range(STEPS // 2 if resume else 0, STEPS):
        for hook in freezing:
            hook.before_train_iteration(SimpleNamespace(model=model, iteration=step))
        seeds = range(step * MICRO_BATCHES, (step + 1) * MICRO_BATCHES)
        first = case.get("first", IMAGES // 2)
        engine.train_step([make_batch(seed, engine.rank, engine.world_size, first) for seed in seeds])
        average.update(model)
        if step + 1 in (STEPS // 2, STEPS):
            saved = {"state_dict": engine.model_state()}
            average.save_checkpoint(run, saved)
            state = {"model": dict(saved[SOURCE]), "average": dict(saved["state_dict"])}
            state["optimizer"] = engine.optimizer_state()
            found["end" if step + 1 == STEPS else "half"] = deepcopy(state)
    return found


def assert_equal(found: Mapping[str, Any], expected: Mapping[str, Any], what: str, tolerance: float = 1e-9) -> None:
    """Compare two states to the last digits."""
    for part in ("model", "average"):
        assert found[part].keys() == expected[part].keys(), what
        for name, value in expected[part].items():
            worst = float((found[part][name].double() - value.double()).abs().max())
            assert worst <= tolerance, f"{what}: {name} of the {part} differs by {worst:.1e}"
    for key, values in expected["optimizer"]["state"].items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor) and tolerance < 1e-6:
                torch.testing.assert_close(found["optimizer"]["state"][key][name], value, rtol=0, atol=tolerance)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    results = {name: train(name) for name in CASES}
    results["resumed"] = train("fsdp", resume=torch.load(folder / "half.pt"))
    if torch.distributed.get_rank() == 0:
        torch.save(results, folder / "found.pt")
