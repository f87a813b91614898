"""``seg-kernel activations``: class-activation maps and feature maps of a model, as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from segkernel.cli import DEVICE, RANDOM_WEIGHTS, TRUST
from segplug_datasets.commands.target import split_overrides


@click.command("activations")
@click.argument("model", help="A run directory, a checkpoint, or a config.")
@click.argument(
    "inputs",
    nargs=-1,
    required=True,
    metavar="IMAGE... [KEY=VALUE]...",
    help="Images or folders of images, and changes of the config.",
)
@click.option("--class", "names", multiple=True, metavar="NAME", help="Grad-CAM of this class; may be repeated.")
@click.option(
    "--layer", default="backbone", show_default=True, metavar="NAME", help="Module, as in seg-kernel profile."
)
@click.option("--channels", type=click.IntRange(1, 256), default=16, show_default=True, help="Maps in a picture.")
@click.option("--opacity", type=click.FloatRange(0, 1, min_open=True), default=0.5, help="Opacity of the colours.")
@click.option("--weights", metavar="FILE", help="A checkpoint, when MODEL is a config.")
@RANDOM_WEIGHTS
@click.option("--out", default="activations", show_default=True, metavar="DIR", help="Output folder.")
@DEVICE
@TRUST
def command(
    model: str,
    inputs: tuple[str, ...],
    names: tuple[str, ...],
    layer: str,
    channels: int,
    opacity: float,
    weights: str | None,
    random_weights: bool,
    out: str,
    device: str | None,
    trust: bool,
) -> None:
    """Draw what a layer of MODEL responds to in IMAGE..., which are given as for `predict`.

    With --class, where the layer speaks for the class (Grad-CAM), in colours over the image: dark blue is 0, yellow is
    the largest value. Without it, the channels of the layer that vary most.

    \b
    Examples:
      seg-kernel activations RUN_DIR photo.jpg --class car --class person
      seg-kernel activations best.pt photos --layer backbone.layer2
    """
    from segkernel import Predictor
    from segkernel.errors import UsageError
    from segkernel.files import file_name
    from segkernel.sample import Sample
    from segplug_datasets.image import write
    from segplug_datasets.predict.activations import channel_sheet, class_activation, feature_maps, heat_overlay
    from segplug_datasets.predict.archives import Member
    from segplug_datasets.predict.sources import collect_images, is_video, output_names

    overrides, given = split_overrides(inputs)
    if not given:
        raise click.UsageError("give an IMAGE")
    sources = collect_images(given)
    if any(is_video(source) or isinstance(source, Member) for source in sources):
        raise UsageError("activations are of image files, not of archives or videos")
    options: dict[str, Any] = {"overrides": overrides, "trust": trust, "random_weights": random_weights}
    options["optimize"] = False  # the layers as they were trained
    predictor = Predictor(model, weights, device, **options)
    folder = Path(out)
    for name, source in zip(output_names(sources), sources):
        pixels = predictor.read(source)
        if isinstance(pixels, list):
            raise UsageError(f"{source}: is a volume; activations are of single images")
        for class_name in names:
            heat = class_activation(predictor, pixels, class_name, layer)
            image = pixels.image if isinstance(pixels, Sample) else pixels
            write(folder / f"{name}_{file_name(class_name)}.png", heat_overlay(image, heat, opacity))
        if not names:
            sheet = channel_sheet(feature_maps(predictor, pixels, layer), channels)
            write(folder / f"{name}_{file_name(layer)}.png", sheet)
    click.echo(f"{len(sources) * max(len(names), 1)} pictures of {layer} in {folder}")
