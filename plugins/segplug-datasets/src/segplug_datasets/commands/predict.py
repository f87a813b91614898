"""``seg-kernel predict``: label images, videos and rasters with a trained model."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from segkernel.cli import DEVICE, RANDOM_WEIGHTS, TRUST
from segplug_datasets.commands.target import exporter_spec, is_model, split_overrides, tta_of

FORMAT_HELP = (
    "Kinds of files, separated by commas: labels (class ids), overlays, both (these two), colors, probabilities (npz), "
    "probabilities-tiff (bytes), rle (COCO JSON), polygons (GeoJSON), shares (CSV); for rasters also geopackage. "
    "[default: both; videos: overlays; large rasters: labels]"
)
OTHER_NAMES = {
    "--show-dir": "--out DIR; overlays are in DIR/vis",
    "--out-dir": "--out DIR",
    "--out-file": "--out DIR; overlays are in DIR/vis",
    "--output": "--out DIR",
    "--img-out-dir": "--out DIR; overlays are in DIR/vis",
    "--pred-out-dir": "--out DIR; labels are in DIR/pred",
    "--save": "--format",
    "--checkpoint": "--weights FILE",
    "--cfg-options": "KEY=VALUE as an argument, without a dash",
    "--with-labels": "--format overlays; a legend is always drawn",
    "--aug-test": "--tta",
}
"""Options of other tools, and what they are called here."""


class Command(click.Command):
    """Says what an option of another tool is called here."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if hint := OTHER_NAMES.get(error.option_name):
                raise click.UsageError(f"no option is called {error.option_name}; it is {hint}", ctx) from None
            raise


@click.command("predict", cls=Command)
@click.argument("model", help="A run directory, a checkpoint, an exported file, or a config.")
@click.argument(
    "inputs",
    nargs=-1,
    required=True,
    metavar="[MODEL]... IMAGE... [KEY=VALUE]...",
    help="More models, images, folders of images or videos, and changes of the config.",
)
@click.option("--second", "seconds", multiple=True, metavar="IMAGE", help="Second images, for models that compare two.")
@click.option("--weights", metavar="FILE", help="A checkpoint, when MODEL is a config.")
@RANDOM_WEIGHTS
@click.option("--out", default="predictions", show_default=True, metavar="DIR", help="Output folder.")
@click.option("--format", "kinds", metavar="NAME,...", help=FORMAT_HELP)
@click.option("--opacity", type=click.FloatRange(0, 1, min_open=True), default=0.5, help="Opacity of the colours.")
@click.option("--tta", is_flag=True, help="Average over scales and mirroring (evaluate.tta, or 0.5 to 1.75 and flip).")
@click.option("--scales", metavar="A,B,...", help="With --tta, or alone: these scales.")
@click.option("--flip/--no-flip", default=None, help="With --tta or --scales: whether mirrored images are averaged.")
@click.option("--batch-size", type=click.IntRange(1), default=1, show_default=True, help="Images of one size at once.")
@DEVICE
@click.option("--exporter", metavar="SPEC", help="Loads an exported MODEL: a name, or '{type: NAME, argument: value}'.")
@click.option(
    "--smoothing",
    type=click.FloatRange(0, 1, max_open=True),
    default=0,
    show_default=True,
    help="Videos: weight of earlier frames in the average of probabilities.",
)
@click.option("--frames", type=click.IntRange(1), metavar="N", help="Videos and cameras: stop after N frames.")
@click.option(
    "--window",
    type=click.IntRange(1),
    metavar="N",
    help="Rasters: predict in windows of N x N. [default: 1024 if large]",
)
@click.option("--margin", type=click.IntRange(0), default=128, show_default=True, help="Pixels around a window.")
@click.option("--show", is_flag=True, help="Show each overlay in a window.")
@click.option("--wait-time", type=float, default=0, metavar="SECONDS", help="Time to show each; 0 waits for a key.")
@TRUST
def command(
    model: str,
    inputs: tuple[str, ...],
    seconds: tuple[str, ...],
    weights: str | None,
    random_weights: bool,
    out: str,
    kinds: str | None,
    opacity: float,
    tta: bool,
    scales: str | None,
    flip: bool | None,
    batch_size: int,
    device: str | None,
    exporter: str | None,
    smoothing: float,
    frames: int | None,
    window: int | None,
    margin: int,
    show: bool,
    wait_time: float,
    trust: bool,
) -> None:
    """Predict IMAGE... with MODEL: a run directory, a checkpoint, an exported file, or a config with --weights.

    An IMAGE is a file of any size, a folder, a quoted pattern ('*.jpg'), a .txt file with one path per line, a zip or
    tar archive, a video or a camera (camera:0). TIFFs of more than 64 megapixels are read and written in windows.
    Further models before the images make an ensemble: their probabilities are averaged.
    KEY=VALUE changes the config, also that of a checkpoint: evaluate.test_cfg.mode=whole

    \b
    Examples:
      seg-kernel predict RUN_DIR photo.jpg
      seg-kernel predict model.onnx '*.jpg' --out predictions
      seg-kernel predict my.yaml --weights best.pt photos.zip --format labels,shares
      seg-kernel predict a.pt b.pt photos --tta
      seg-kernel predict best.pt street.mp4 --smoothing 0.6
      seg-kernel predict best.pt region.tif --format polygons --window 1024
    """
    from segkernel import Predictor
    from segplug_datasets.predict.scenes import is_scene
    from segplug_datasets.predict.sources import collect_images, is_video

    overrides, given = split_overrides(inputs)
    models, given = leading_models(given)
    if not given:
        order = "models come first, then images"
        raise click.UsageError(f"give an IMAGE to predict after {', '.join([model, *models])}: {order}")
    sources = collect_images(given)
    options: dict[str, Any] = {"exporter": exporter_spec(exporter), "trust": trust, "random_weights": random_weights}
    predictors = [Predictor(each, weights, device, overrides=overrides, **options) for each in [model, *models]]
    for each in predictors:
        each.tta = _views(each.config, tta, scales, flip)
    predictor = predictors[0] if len(predictors) == 1 else Predictor(predictors)
    videos: list[Any] = [source for source in sources if is_video(source)]
    scenes: list[Any] = [each for each in sources if (window and _is_tiff(each)) or is_scene(each)]
    scenes = [] if seconds else scenes
    images = [source for source in sources if not any(source is each for each in [*videos, *scenes])]
    formats = kinds and [name.strip() for name in kinds.replace("both", "labels,overlays").split(",")]
    work = _Work(predictor, Path(out), formats)
    drawing = {"opacity": opacity, "show": show, "batch_size": batch_size}
    if images:
        work.predict_images(images, seconds=seconds or None, wait_time=wait_time, **drawing)
    work.predict_videos(videos, smoothing=smoothing, frames=frames, **drawing)
    work.predict_rasters(scenes, window=window or 1024, margin=margin, opacity=opacity)
    click.echo("\n".join(work.found()))


def leading_models(given: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the further models, which come first, and the other arguments."""
    count = 0
    while count < len(given) and is_model(given[count]):
        count += 1
    return list(given[:count]), list(given[count:])


def _is_tiff(source: object) -> bool:
    return isinstance(source, Path) and source.suffix.lower() in (".tif", ".tiff")


def _views(config: Any, tta: bool, scales: str | None, flip: bool | None) -> Any:
    """Return the test-time augmentation, None without one."""
    if not tta and scales is None:
        if flip is not None:
            raise click.UsageError("--flip and --no-flip go with --tta or --scales")
        return None
    views: dict[str, Any] = dict(tta_of(config))
    if scales is not None:
        try:
            views["scales"] = tuple(float(scale) for scale in scales.split(","))
        except ValueError:
            raise click.UsageError(f"--scales: {scales!r} is not a list of numbers such as 0.75,1,1.25") from None
        if not all(0.05 <= scale <= 20 for scale in views["scales"]):
            raise click.UsageError(f"--scales: {scales!r} must be from 0.05 to 20")
    return views if flip is None else {**views, "flip": flip}


class _Work:
    """Predicts the inputs of each kind with a progress bar, and says where the files are."""

    def __init__(self, predictor: Any, out: Path, formats: Any) -> None:
        self.predictor, self.out, self.formats = predictor, out, formats
        self._lines: list[str] = []
        self._folders: dict[Path, str] = {}

    def predict_images(self, images: Sequence[Any], **options: Any) -> None:
        """Predict images, all in one call."""
        from segplug_datasets.predict.images import predict_images
        from segplug_datasets.predict.outputs import DEFAULT_FORMATS, FORMATS

        formats = self.formats or DEFAULT_FORMATS
        self._expect({FORMATS[name][1]: name for name in formats if name in FORMATS})
        stream = predict_images(self.predictor, images, self.out, formats=formats, **options)
        count, seconds = _drain(stream, len(images), "predicting")
        rate = f", {count / seconds:.1f} per second" if count > 1 else ""
        what = "image" if count == 1 else "images"
        self._lines.append(f"{count} {what} predicted on {self.predictor.device}{rate}")

    def predict_videos(self, videos: Sequence[Path], **options: Any) -> None:
        """Predict one video after the other; an interrupt ends one early, with the frames until then."""
        from segplug_datasets.predict.outputs import FORMATS
        from segplug_datasets.predict.sources import output_names
        from segplug_datasets.predict.video import Frames, predict_video

        formats = self.formats or ("overlays",)
        for name, path in zip(output_names(videos), videos):
            self._expect({FORMATS[name][1]: name for name in formats if name in FORMATS})
            video = Frames(path)
            total = min(filter(None, (video.count, options["frames"])), default=None)
            stream = predict_video(self.predictor, video, self.out, formats=formats, name=name, **options)
            count, seconds = _drain(stream, total, path.name)
            rate = f"{count / seconds:.1f} frames per second"
            self._lines.append(f"{path}: {count} frames predicted on {self.predictor.device}, {rate}")

    def predict_rasters(self, rasters: Sequence[Path], window: int, margin: int, opacity: float) -> None:
        """Predict one raster after the other, in windows."""
        from segplug_datasets.predict.scenes import predict_raster
        from segplug_datasets.predict.sources import output_names
        from segplug_datasets.raster_file import open_raster

        for name, path in zip(output_names(rasters), rasters):
            self._expect(
                {"pred": "labels", "vis": "overlays", "polygons": "polygons", "probabilities": "probabilities"}
            )
            height, width = open_raster(str(path)).size
            total = -(-height // window) * -(-width // window)
            options: dict[str, Any] = {
                "window": window,
                "margin": margin,
                "opacity": opacity,
                "formats": self.formats or ("labels",),
                "name": name,
            }
            count, seconds = _drain(predict_raster(self.predictor, path, self.out, **options), total, path.name)
            rate = f"{height * width / seconds / 1e6:.2f} megapixels per second"
            self._lines.append(f"{path}: {count} windows predicted on {self.predictor.device}, {rate}")

    def _expect(self, folders: dict[str, str]) -> None:
        self._folders |= {self.out / folder: name for folder, name in folders.items() if folder}

    def found(self) -> Iterator[str]:
        """Yield the lines of the report."""
        yield from self._lines
        names = {"overlays": "pictures", "probabilities-tiff": "probabilities"}
        found = [(names.get(name, name), folder) for folder, name in self._folders.items() if folder.is_dir()]
        files = sorted({*self.out.glob("predictions.json"), *self.out.glob("*shares.csv")})
        found += [("table" if file.suffix == ".csv" else "rle", file) for file in files]
        width = max((len(name) for name, _ in found), default=0)
        yield from (f"{name:<{width}}  {path}" for name, path in found)


def _drain(stream: Iterator[Any], length: int | None, label: str) -> tuple[int, float]:
    """Run through a stream with a progress bar; return the number of its items and the seconds."""
    start, done = time.perf_counter(), 0
    with click.progressbar(stream, length=length, label=label, file=sys.stderr, show_pos=True) as bar:
        try:
            for _ in bar:
                done += 1
        except KeyboardInterrupt:
            if length is not None:
                raise
            stream.close()  # type: ignore[attr-defined]  # a camera, which ends when it is told to
    return done, time.perf_counter() - start
