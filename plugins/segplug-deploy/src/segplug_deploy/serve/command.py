"""``seg-kernel serve``: models as an HTTP service with a web page."""

from __future__ import annotations

import click

from segkernel.cli import DEVICE, RANDOM_WEIGHTS, TRUST


@click.command("serve")
@click.argument(
    "models",
    nargs=-1,
    required=True,
    metavar="MODEL...",
    help="Run directories, checkpoints, exported files or published names; NAME=MODEL names one, MODEL+MODEL averages.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at; 0.0.0.0 for all networks.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@DEVICE
@click.option("--threads", type=click.IntRange(1), help="Threads of torch. [default: one per core]")
@click.option("--batch", type=click.IntRange(1), default=8, show_default=True, help="Images computed together.")
@click.option(
    "--wait",
    type=click.FloatRange(0, 1000),
    default=5,
    show_default=True,
    metavar="MS",
    help="Time for which a batch waits for requests that are being received.",
)
@click.option("--queue", type=click.IntRange(1), default=64, show_default=True, help="Requests in progress per model.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="Time to receive an image, and again to answer.",
)
@click.option(
    "--max-megabytes",
    type=click.FloatRange(0, min_open=True),
    default=32,
    show_default=True,
    help="Largest request.",
)
@click.option(
    "--max-megapixels",
    type=click.FloatRange(0, min_open=True),
    default=25,
    show_default=True,
    help="Largest image, and largest batch.",
)
@RANDOM_WEIGHTS
@TRUST
def command(
    models: tuple[str, ...],
    host: str,
    port: int,
    device: str | None,
    threads: int | None,
    batch: int,
    wait: float,
    queue: int,
    timeout: float,
    max_megabytes: float,
    max_megapixels: float,
    random_weights: bool,
    trust: bool,
) -> int:
    """Serve MODEL... over HTTP, with a page for the browser.

    A MODEL is a run directory, a checkpoint, an exported file, or the name of a published model; NAME=MODEL names it.
    MODEL+MODEL is an ensemble: the probabilities of the models are averaged.
    POST /models/NAME/predict takes an image and returns its label map; /openapi.json describes all addresses.
    Anyone who reaches the address can use it: there is no password, and by default only this machine reaches it.

    \b
    Examples:
      seg-kernel serve runs/first
      seg-kernel serve street=runs/first fast=model.onnx --port 8080
      seg-kernel serve best=runs/first+runs/second
      curl --data-binary @photo.jpg 'localhost:8000/models/first/predict?format=json'
    """
    _require_extra()
    from segplug_deploy.serve.app import create_app
    from segplug_deploy.serve.models import load, split_names
    from segplug_deploy.serve.refusal import Limits
    from segplug_deploy.serve.server import LOOPBACK, address_of, bind, serve

    limits = Limits(max_megabytes, max_megapixels, timeout, queue, batch, wait / 1000)
    named = split_names(models)
    bound = bind(host, port)  # before the models are loaded, which takes longer
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    loaded = load(named, device=device, trust=trust, random_weights=random_weights)
    for model in loaded.values():
        model.warm_up()
    app = create_app(loaded, limits, LOOPBACK if host in ("127.0.0.1", "::1", "localhost") else ())
    text = f"serving {', '.join(loaded)} on {address_of(bound)}    (Ctrl-C stops)"
    code = serve(app, bound, started=lambda: click.echo(text))
    click.echo("stopped")
    return code


def _require_extra() -> None:
    """Raise `NotInstalledError` when the extra ``serve`` is not installed."""
    from importlib.util import find_spec

    from segkernel.errors import NotInstalledError

    if not all(map(find_spec, ("starlette", "uvicorn", "python_multipart"))):
        raise NotInstalledError("commands", "serve", "'segplug-deploy[serve]'")
