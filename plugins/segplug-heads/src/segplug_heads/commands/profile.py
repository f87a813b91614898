"""``seg-kernel profile``: parameters, operations, time and memory of a model by module, as a tree."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segkernel.cli import DEVICE, OVERRIDES, SIZE, TRUST, table
from segkernel.errors import UsageError, suggest

if TYPE_CHECKING:
    from segplug_heads.commands.module_costs import ModuleCost

log = logging.getLogger(__name__)


@click.command("profile")
@click.argument("model", help="A config, a packaged name, a run directory or a checkpoint.")
@OVERRIDES
@click.option("--shape", type=SIZE, help="Height and width of the image. [default: the config's crop size]")
@click.option("--batch-size", type=click.IntRange(1), default=1, show_default=True, help="Images at once.")
@click.option("--depth", type=click.IntRange(0), default=2, show_default=True, help="Levels of the tree.")
@click.option("--part", metavar="NAME", default="", help="Only the tree below this module, such as backbone.layer3.")
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True, help="Timed passes.")
@DEVICE
@click.option("--json", "as_json", is_flag=True, help="Print JSON, all levels.")
@TRUST
def command(
    model: str,
    overrides: tuple[str, ...],
    shape: tuple[int, int] | None,
    batch_size: int,
    depth: int,
    part: str,
    repeats: int,
    device: str | None,
    as_json: bool,
    trust: bool,
) -> None:
    """Measure a forward pass of MODEL by module: a config, a name, a checkpoint or a run directory.

    Each line includes the modules inside it. FLOPs are two for each multiplication with its addition (MAC), which many
    papers call one; memory is by how much live tensors grow at most during the module, without weights. Time is that of
    plain torch: `seg-kernel predict` also reads, resizes and writes.

    \b
    Examples:
      seg-kernel profile segformer_mit-b0_8xb2-160k_ade20k-512x512
      seg-kernel profile RUN_DIR --shape 512x1024 --depth 3 --part backbone
    """
    import torch

    from segplug_heads.commands.module_costs import module_costs

    network, channels, crop, chosen = _loaded(model, overrides, device, trust)
    names = [name for name, _ in network.named_modules()]
    if part not in names:
        raise UsageError(f"--part: the model has no module {part!r}; {suggest(part, names[1:])}")
    height, width = shape or crop or (512, 512)
    images = torch.zeros(batch_size, channels, height, width, device=chosen)
    log.info("measuring %d passes of %d x %d x %d on %s", repeats, batch_size, height, width, chosen)
    try:
        costs = module_costs(network, images, repeats)
    except RuntimeError as error:
        raise UsageError(f"the model fails on {height} x {width}: {str(error).splitlines()[0]}") from error
    if as_json:
        facts: dict[str, Any] = {"model": model, "shape": [batch_size, height, width], "device": str(chosen)}
        click.echo(json.dumps({**facts, "modules": {n: dataclasses.asdict(c) for n, c in costs.items()}}, indent=1))
        return
    click.echo(tree(costs, part, depth))
    click.echo(f"\n{Path(model).name}, {batch_size} x {height} x {width} on {chosen}")


def _loaded(model: str, overrides: Sequence[str], device: str | None, trust: bool) -> tuple[Any, int, Any, Any]:
    """Return a model, its number of channels, the config's crop size and the device; weights are not downloaded."""
    from segkernel import LocalEngine, Predictor, load_config
    from segkernel.inference import Preprocessor
    from segkernel.loading import make_model
    from segplug_heads.configs.source import FILES

    path = Path(model)
    if path.is_dir() or (path.is_file() and path.suffix.lower() not in FILES):
        predictor = Predictor(model, device=device, overrides=overrides, trust=trust, optimize=False)
        network, chosen = predictor.model, predictor.device
        data: dict[str, Any] = (predictor.config.get("data") if predictor.config else None) or {}
        if next(network.parameters(), None) is None:
            raise UsageError(f"{model}: an exported file has no modules to measure; give the checkpoint that it is of")
        return network, predictor.preprocessor.mean.shape[1], data.get("crop_size"), chosen
    config, engine = load_config(model, overrides), LocalEngine(device or "auto")
    data = config.get("data") or {}
    network = make_model(config, pretrained=False).to(engine.device)
    return network, Preprocessor(**(data.get("preprocess") or {})).mean.shape[1], data.get("crop_size"), engine.device


HEAD = ("module", "class", "M params", "GFLOPs", "ms", "share", "MB", "output")


def tree(costs: dict[str, ModuleCost], root: str = "", depth: int = 2) -> str:
    """Return the costs of a module and of those inside it, as an indented table."""
    start = root.count(".") + 1 if root else 0
    total = costs[root].seconds or 1.0
    rows: list[tuple[str, ...]] = [HEAD]
    for name, cost in costs.items():
        inside = not root or name == root or name.startswith(f"{root}.")
        level = (name.count(".") + 1 if name else 0) - start
        if inside and level <= depth and (cost.calls or cost.parameters):
            label = (name.rpartition(".")[2] if level else name) or "model"
            rows.append(("  " * level + label, *_cells(cost, total)))
    numbers = range(2, 7)
    widths = {column: max(len(row[column]) for row in rows) for column in numbers}
    return table([[cell.rjust(widths[c]) if c in widths else cell for c, cell in enumerate(row)] for row in rows])


def _cells(cost: ModuleCost, total: float) -> tuple[str, ...]:
    found = (cost.kind, f"{cost.parameters / 1e6:.2f}")
    if not cost.calls:
        return (*found, "-", "-", "-", "-", "not called")
    shapes = " ".join("x".join(map(str, shape)) for shape in cost.shapes[:4])
    measured = (f"{cost.flops / 1e9:.2f}", f"{1000 * cost.seconds:.1f}", f"{100 * cost.seconds / total:.0f} %")
    return (*found, *measured, f"{cost.memory / 1e6:.1f}", shapes)
