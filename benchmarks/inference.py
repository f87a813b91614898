"""Inference on one CPU thread: ours, the reference's path and a best-effort torch script, with the same weights.

    python benchmarks/inference.py [MODEL ...] --repeats 5

All paths start from the same random weights and the same image in memory and end with its class ids:

- ``ours`` is `Predictor`, whose parts are printed: preprocess, forward, labels; reading the file comes on top;
- ``reference`` is what MMSegmentation does: the forward pass, logits resized to the size of the input, argmax over the
  classes, image by image;
- ``best effort`` is what a careful user writes: folded batch norms, ``channels_last`` where it is faster,
  ``inference_mode``, interpolate and argmax.

Both others start with the normalised image. Times are CPU time, the median of the repeats. Ours runs in one process,
the others take turns in another, as `Predictor` changes settings of the process's allocator. Memory is what a pass adds
to the loaded model at most, the median of five passes after a first one. Labels of ours and of the reference are
compared, too.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REAL_TIME, USUAL = (512, 1024), (512, 512)
MODELS = {
    "fast_scnn": ("fast_scnn_8xb4-160k_cityscapes-512x1024", REAL_TIME),
    "bisenetv2": ("bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024", REAL_TIME),
    "pidnet-s": ("pidnet-s_2xb6-120k_1024x1024-cityscapes", REAL_TIME),
    "segformer-b0": ("segformer_mit-b0_8xb2-160k_ade20k-512x512", USUAL),
    "segformer-b2": ("segformer_mit-b2_8xb2-160k_ade20k-512x512", USUAL),
    "segnext-t": ("segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512", USUAL),
    "hr18s": ("fcn_hr18s_4xb4-160k_ade20k-512x512", USUAL),
    "fcn-r50": ("fcn_r50-d8_4xb4-160k_ade20k-512x512", USUAL),
    "pspnet-r50": ("pspnet_r50-d8_4xb4-160k_ade20k-512x512", USUAL),
    "swin-t": ("swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512", USUAL),
}
PATHS = ("ours", "reference", "best effort")
COLUMNS = (
    "model", "read", "preprocess", "forward", "labels", "ours", "reference", "ratio", "best effort", "ratio",
    "MB ours", "MB reference", "equal labels",
)  # fmt: skip


class Paths:
    """The three paths of one model.

    Args:
        name: A key of `MODELS`.
        size: Height and width of the image; None is that of the table.
        optimize: Whether the predictor is the one that is measured.
        careful: Whether the best-effort script is.
    """

    def __init__(
        self, name: str, size: tuple[int, int] | None = None, optimize: bool = True, careful: bool = False
    ) -> None:
        import numpy as np
        import torch

        from segkernel import Predictor
        from segkernel.config import load_config
        from segkernel.loading import make_model
        from segplug_datasets import image
        from segplug_deploy import optimize_for_inference

        torch.set_num_threads(1)
        torch.manual_seed(0)
        config, usual = MODELS[name]
        height, width = size or usual
        self.plain = _with_spread_logits(make_model(load_config(config), pretrained=False).eval())
        self.careful = self.plain
        if careful:
            # Without oneDNN's operators, Swin is slower in this layout.
            self.careful = optimize_for_inference(
                self.plain, onednn=False, channels_last=name != "swin-t", labels=False, memory=False
            )
        # No resizing, so that all paths see the same input.
        names = [str(index) for index in range(self.plain.outputs["seg"].classes)]
        self.predictor = Predictor(self.plain, device="cpu", classes=names, transforms=[], optimize=optimize)
        for model in (self.plain, self.careful):
            if type(model.decode_head).__name__ == "SegformerHead":
                model.decode_head.training = True  # fuses the enlarged maps, as the reference does
        coarse = np.random.default_rng(0).integers(0, 255, (height // 32, width // 32, 3), np.uint8)
        rough = torch.from_numpy(coarse).permute(2, 0, 1)[None].float()
        smooth = torch.nn.functional.interpolate(rough, (height, width), mode="bicubic").clamp(0, 255)
        self.pixels = smooth[0].permute(1, 2, 0).to(torch.uint8).numpy()
        self.file = Path(tempfile.mkdtemp()) / "image.jpg"
        image.write(self.file, self.pixels)
        self.images = self.predictor.example(self.pixels)

    def read(self) -> Any:
        from segkernel import image

        return image.read(self.file)

    def preprocess(self) -> Any:
        return self.predictor.example(self.pixels)

    def forward(self) -> Any:
        return self.predictor._engine.predict(self.images)

    def ours(self) -> Any:
        return self.predictor.predict(self.pixels).labels

    def reference(self) -> Any:
        import torch
        from torch.nn.functional import interpolate

        with torch.no_grad():
            logits = self.plain.predict(self.images)["seg"]
            corners = self.plain.outputs["seg"].align_corners
            logits = interpolate(logits, self.images.shape[2:], mode="bilinear", align_corners=corners)
            labels = [image.argmax(dim=0) for image in logits]
            return labels[0]

    def best_effort(self) -> Any:
        import torch
        from torch.nn.functional import interpolate

        with torch.inference_mode():
            logits = self.careful.predict(self.images)["seg"]
            corners = self.plain.outputs["seg"].align_corners
            return interpolate(logits, self.images.shape[2:], mode="bilinear", align_corners=corners).argmax(1)[0]


def _with_spread_logits(model: Any) -> Any:
    """Give the last layers weights of a usual size: random ones are so small that all logits are nearly equal."""
    import torch

    for module in model.modules():
        if isinstance(getattr(module, "conv_seg", None), torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.conv_seg.weight)
    return model


def milliseconds(functions: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return the median CPU time of each function; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats + 1):
        for name, function in functions.items():
            start = time.process_time()
            function()
            times[name].append(1000 * (time.process_time() - start))
    return {name: statistics.median(values[1:]) for name, values in times.items()}  # the first one warms up


def measure(name: str, repeats: int) -> dict[str, Any]:
    """Return the times of our path, and the share of equal labels; to be called in a fresh process."""
    paths = Paths(name)
    names = ("read", "preprocess", "forward", "ours")
    found: dict[str, Any] = milliseconds({each: getattr(paths, each) for each in names}, repeats)
    found["equal labels"] = float((paths.ours() == paths.reference()).float().mean())
    return found


def measure_others(name: str, repeats: int) -> dict[str, Any]:
    """Return the times of the two other paths; to be called in a fresh process."""
    paths = Paths(name, optimize=False, careful=True)
    return milliseconds({"reference": paths.reference, "best effort": paths.best_effort}, repeats)


def memory(name: str, path: str, size: tuple[int, int] | None, passes: int = 5) -> dict[str, float]:
    """Return the MB that a pass adds to the loaded model at most, those of a first one, and those of the process.

    Before each pass, the allocator returns what is free; else a pass would use it without a trace.
    """
    paths = Paths(name, size, optimize=path == "ours", careful=path == "best effort")
    peaks, loaded = [], 0.0
    for _ in range(passes + 1):
        ctypes.CDLL(None).malloc_trim(0)
        loaded = _resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak of resident memory
        getattr(paths, path.replace(" ", "_"))()
        peaks.append(_resident("VmHWM") - loaded)
    return {"peak": statistics.median(peaks[1:]), "first": peaks[0], "loaded": loaded}


def _resident(name: str) -> float:
    """Return an entry of the process's status in MB."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(name)).split()[1]) / 1024


def child(*arguments: str) -> dict[str, Any]:
    """Run this file in a new process and return what it prints."""
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def row(name: str, repeats: int) -> list[str]:
    """Return the row of the table for one model."""
    times_of = [child(name, "--part", part, "--repeats", str(repeats)) for part in ("times", "other times")]
    found = times_of[0] | times_of[1]
    peaks = [child(name, "--part", path)["peak"] for path in PATHS[:2]]
    labels = found["ours"] - found["forward"] - found["preprocess"]
    values = [found["read"], found["preprocess"], found["forward"], labels, found["ours"], found["reference"]]
    ratios = [f"{found[path] / found['ours']:.2f}" for path in PATHS[1:]]
    times = [f"{value:.0f}" for value in values]
    ends = [f"{peak:.0f}" for peak in peaks]
    return [name, *times, ratios[0], f"{found['best effort']:.0f}", ratios[1], *ends, f"{found['equal labels']:.5f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(MODELS), metavar="MODEL", help=f"default: {' '.join(MODELS)}")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", help="HEIGHTxWIDTH, for --part with a path")
    parser.add_argument(
        "--part", choices=["times", "other times", *PATHS], help="print one measurement of one model as JSON"
    )
    options = parser.parse_args()
    if unknown := [name for name in options.models if name not in MODELS]:
        parser.error(f"no such model: {' '.join(unknown)}; there are {' '.join(MODELS)}")
    if options.part == "times":
        print(json.dumps(measure(options.models[0], options.repeats)))
    elif options.part == "other times":
        print(json.dumps(measure_others(options.models[0], options.repeats)))
    elif options.part:
        size = tuple(map(int, options.size.split("x"))) if options.size else None
        print(json.dumps(memory(options.models[0], options.part, size)))
    else:
        print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}")
        for name in options.models:
            print(f"| {' | '.join(row(name, options.repeats))} |", flush=True)


if __name__ == "__main__":
    main()
