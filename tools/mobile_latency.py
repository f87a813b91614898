"""Write docs/assets/mobile-latency.json: milliseconds of light models in torch and as ONNX files, for docs/choosing.md.

    OMP_NUM_THREADS=1 python tools/mobile_latency.py               # models that are not yet in the file
    OMP_NUM_THREADS=1 python tools/mobile_latency.py 'topformer*'  # these again

One image of 512 x 512 pixels and 150 classes, one thread, random weights; CPU time, so that other processes change the
result little: the median of ten passes. ``torch`` is the plain forward pass in float32, ``optimised`` the same after
`segplug_deploy.optimize_for_inference`, ``onnx`` and ``int8`` are files in onnxruntime, the latter quantised with
images of StreetScenes. int8 is missing where random weights give infinite activations.
"""

from __future__ import annotations

import fnmatch
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from zoo_costs import FILE as COSTS

from segkernel.config import load_config
from segkernel.loading import make_model
from segplug_datasets import StreetScenes
from segplug_deploy import optimize_for_inference
from segplug_deploy.quantize import to_int8

FILE = COSTS.with_name("mobile-latency.json")
MODELS = (
    "afformer-b", "afformer-t", "bisenetv2_fcn", "cgrseg-t", "efficientvit-seg-b0", "efficientvit-seg-b1", "fast_scnn",
    "fpn_edgenext-s", "fpn_efficientformerv2-s0", "fpn_fastvit-t8", "fpn_mobilenetv4-conv-s", "fpn_mobilenetv4-conv-m",
    "fpn_mobileone-s0", "fpn_repvit-m0.9", "fpn_starnet-s1",
    "mobilenet-v3-d8-s_lraspp", "pidnet-s", "pp-liteseg-t", "pp-mobileseg-b", "pp-mobileseg-t", "sctnet-b", "sctnet-s",
    "seaformer-b", "seaformer-s", "seaformer-t", "segformer_mit-b0", "segnext_mscan-t", "topformer-b", "topformer-s",
    "topformer-t", "umixformer_mit-b0",
)  # fmt: skip
SIZE, PASSES, CALIBRATION = 512, 10, 8
Latency = dict[str, float | None]


def measured(call: Callable[[], Any]) -> float:
    """Return the milliseconds of a call, in CPU time."""
    seconds = []
    for _ in range(PASSES + 2):
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)
    return round(1000 * statistics.median(seconds[2:]), 1)


def latency(model_name: str) -> Latency:
    """Return the milliseconds of a model in each way it runs."""
    config = load_config(f"{model_name}_4xb4-80k_ade20k-512x512", [f"data.crop_size=[{SIZE},{SIZE}]"])
    torch.manual_seed(0)
    model = make_model(config, pretrained=False).eval()
    image = torch.rand(1, 3, SIZE, SIZE)
    with torch.inference_mode():
        found: Latency = {"torch": measured(lambda: model(image))}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(model, (image,), path, dynamo=True, external_data=False, verbose=False)
        found["onnx"] = measured(runner(path, image.numpy()))
        try:
            to_int8(path, calibration())
            found["int8"] = measured(runner(path, image.numpy()))
        except AssertionError:  # onnxruntime, when random weights give infinite activations
            found["int8"] = None
    optimised = optimize_for_inference(model)
    with torch.inference_mode():
        found["optimised"] = measured(lambda: optimised(image))
    return found


def runner(path: Path, image: np.ndarray) -> Callable[[], Any]:
    """Return a call that runs a file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: image})


def calibration() -> list[np.ndarray]:
    """Return normalised images."""
    images = StreetScenes("train", size=(SIZE, SIZE))
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    pixels = [((images[i].image - mean) / std).astype(np.float32) for i in range(CALIBRATION)]
    return [np.ascontiguousarray(each.transpose(2, 0, 1)[None]) for each in pixels]


def main(patterns: list[str]) -> None:
    """Measure what the patterns select, else what is missing, and write the file after each model."""
    known: dict[str, Latency] = json.loads(FILE.read_text("utf-8")) if FILE.exists() else {}
    for model in MODELS:
        if any(fnmatch.fnmatch(model, pattern) for pattern in patterns) if patterns else model not in known:
            known[model] = latency(model)
            print(model, known[model], flush=True)
            lines = (f"{json.dumps(name)}: {json.dumps(value)}" for name, value in sorted(known.items()))
            FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
