"""Time and peak memory of a prediction in windows of a raster that is larger than the memory it may use.

    python benchmarks/large_raster.py --side 12000 --limit 1500

Writes a georeferenced raster of texture into a temporary folder, predicts it with a small model of random weights in a
separate process whose memory is limited (RLIMIT_DATA), and checks size and georeference of the result.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

PLACE = (500_000.0, 4_000_000.0)
CLASSES = ["background", "field", "forest", "water", "road", "building"]


def write_raster(path: Path, side: int) -> None:
    """Write ``side`` x ``side`` pixels of 3 bands, row of tiles by row of tiles, at 0.5 m in UTM zone 32."""
    import cv2
    import rasterio
    from rasterio.windows import Window

    profile = {"driver": "GTiff", "width": side, "height": side, "count": 3, "dtype": "uint8", "crs": "EPSG:32632"}
    tiles = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "BIGTIFF": "IF_SAFER"}
    transform = rasterio.transform.from_origin(*PLACE, 0.5, 0.5)
    rng = np.random.default_rng(0)
    with rasterio.open(path, "w", transform=transform, **profile, **tiles) as file:
        for top in range(0, side, 512):
            height = min(512, side - top)
            coarse = rng.integers(0, 256, (9, -(-side // 64), 3)).astype(np.uint8)
            strip = cv2.resize(coarse, (side, 512), interpolation=cv2.INTER_CUBIC)[:height]
            file.write(strip.transpose(2, 0, 1), window=Window(0, top, side, height))


def predict(path: Path, out: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Predict the raster in this process; return megapixels per second and the peak memory."""
    if options.limit:
        resource.setrlimit(resource.RLIMIT_DATA, (options.limit << 20, options.limit << 20))
    import torch

    from segkernel import Predictor
    from segplug_datasets import predict_raster

    torch.manual_seed(0)
    six = [f"model.decode_head.num_classes={len(CLASSES)}", "model.auxiliary_head=null"]
    overrides = six if options.overrides is None else options.overrides
    predictor = Predictor(options.model, device="cpu", classes=CLASSES, overrides=overrides, random_weights=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.perf_counter()
    formats = ["labels", "shares", *(["polygons", "geopackage"] if options.polygons else [])]
    windows = sum(1 for _ in predict_raster(predictor, path, out, window=options.window, formats=formats))
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"windows": windows, "seconds": seconds, "peak MB": peak, "MB before": before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=12_000)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--limit", type=int, default=1500, help="MB; 0 for none")
    parser.add_argument("--model", default="fast_scnn_8xb4-160k_cityscapes-512x1024")
    parser.add_argument("--overrides", nargs="*", help="for the model's config, instead of six classes")
    parser.add_argument("--polygons", action="store_true")
    parser.add_argument("--here", metavar="DIR", help="predict DIR/raster.tif in this process, print JSON")
    options = parser.parse_args()
    if options.here:
        print(json.dumps(predict(Path(options.here, "raster.tif"), Path(options.here, "out"), options)))
        return
    import rasterio

    with tempfile.TemporaryDirectory() as folder:
        write_raster(Path(folder, "raster.tif"), options.side)
        command = [sys.executable, __file__, *sys.argv[1:], "--here", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        found = json.loads(done.stdout.splitlines()[-1])
        with rasterio.open(Path(folder, "out", "pred", "raster.tif")) as file:
            assert (file.height, file.width) == (options.side, options.side)
            assert (file.crs.to_epsg(), file.transform.c, file.transform.f) == (32632, *PLACE)
        sizes = {path.name: path.stat().st_size for path in Path(folder, "out").rglob("*") if path.is_file()}
    print(f"{options.side} x {options.side} pixels, {found['windows']} windows of {options.window}, {options.model}")
    print(f"peak memory {found['peak MB']:.0f} MB, of which {found['MB before']:.0f} before the first window")
    print(f"{found['seconds']:.0f} s, {options.side**2 / found['seconds'] / 1e6:.2f} megapixels per second")
    print(", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in sizes.items()))


if __name__ == "__main__":
    main()
