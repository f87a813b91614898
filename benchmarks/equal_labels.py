"""Label maps of the fast paths of inference against those of the plain path, on a folder of real images.

    python benchmarks/equal_labels.py path/to/images --models segformer-b0 fast_scnn --count 200

For each model, with random weights and at the size of each image:

- ``labels``: class ids of `resized_argmax` against those of ``interpolate`` and ``argmax``, for the same logits;
- ``model``: class ids of the model that `optimize_for_inference` returns against those of the plain model. Their logits
  differ by rounding, so a pixel may differ where two classes are nearly equal: ``margin`` is the largest difference of
  the two largest logits of such a pixel, and ``error`` the largest difference of a logit, both relative to the largest
  logit of the image.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from inference import MODELS, _with_spread_logits
from torch import Tensor
from torch.nn.functional import interpolate

from segkernel import Predictor, image
from segkernel.config import load_config
from segkernel.loading import make_model
from segplug_deploy import optimize_for_inference, resized_argmax

SUFFIXES = (".jpg", ".jpeg", ".png")


def compare(name: str, files: list[Path]) -> str:
    """Return the row of the table for one model."""
    torch.manual_seed(0)
    plain = _with_spread_logits(make_model(load_config(MODELS[name][0]), pretrained=False).eval())
    faster = optimize_for_inference(plain)
    output = plain.outputs["seg"]
    names = [str(index) for index in range(output.classes)]
    predictor = Predictor(plain, device="cpu", classes=names, transforms=[])
    unequal = different = pixels = 0
    margin = error = 0.0
    for file in files:
        images = predictor.example(image.read(file))
        size = images.shape[2:]
        with torch.no_grad():
            logits, others = plain.predict(images)["seg"], faster.predict(images)["seg"]
        large = interpolate(logits.contiguous(), size, mode="bilinear", align_corners=output.align_corners)
        expected = large.argmax(1)
        unequal += _unequal(resized_argmax(logits, [(size, size)], output.align_corners), expected)
        other = resized_argmax(others, [(size, size)], output.align_corners).long()
        different += _unequal(other, expected)
        top, scale = large.topk(2, 1).values, float(logits.abs().max())
        ties = (top[:, 0] - top[:, 1])[other != expected]
        margin = max(margin, float(ties.max()) / scale if len(ties) else 0.0)
        error = max(error, float((others - logits).abs().max()) / scale)
        pixels += expected.numel()
    numbers = len(files), f"{pixels / 1e6:.1f}", unequal, different, f"{margin:.1e}", f"{error:.1e}"
    return f"| {name} | {' | '.join(map(str, numbers))} |"


def _unequal(found: Tensor, expected: Tensor) -> int:
    return int((found.long() != expected).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="*", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--count", type=int, default=200)
    options = parser.parse_args()
    files = sorted(path for path in options.folder.rglob("*") if path.suffix.lower() in SUFFIXES)[: options.count]
    print("| model | images | megapixels | labels: different pixels | model: different pixels | margin | error |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in options.models:
        print(compare(name, files), flush=True)


if __name__ == "__main__":
    main()
