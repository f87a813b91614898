"""``seg-kernel average-checkpoints``: the mean of the weights of several checkpoints, a model soup.

Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing inference time,
Wortsman et al., 2022 (https://arxiv.org/abs/2203.05482).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from segkernel.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from torch import Tensor


@click.command("average-checkpoints")
@click.argument("sources", metavar="CHECKPOINT...", nargs=-1, required=True, help="Checkpoints of the same model.")
@click.option("--out", metavar="FILE", required=True, type=click.Path(path_type=Path), help="The file to write.")
def command(sources: tuple[str, ...], out: Path) -> None:
    """Write a checkpoint with the mean of the weights of several CHECKPOINTs, a model soup.

    It helps where the runs started from the same weights, as fine-tuning with several settings does: compare it with
    its ingredients by test. Running statistics of norms are averaged, too.

    \b
    Examples:
      seg-kernel average-checkpoints work_dirs/my_sweep/*/checkpoints/best_mIoU_*.pt --out soup.pt
      seg-kernel test soup.pt
    """
    average_checkpoints(sources, out)
    click.echo(f"wrote {out}, the mean of {len(sources)} checkpoints\nnext   seg-kernel test {out}")


def average_checkpoints(sources: Sequence[str | Path], out: str | Path) -> Path:
    """Write the mean of the weights of several checkpoints, with the metadata of the first; return the file.

    Args:
        sources: Two or more, of the same model.
        out: The file to write.

    Raises:
        CheckpointError: When one is damaged, or of another model.
        UsageError: When there are fewer than two.
    """
    from segkernel import checkpoint

    if len(sources) < 2:
        raise UsageError("averaging needs two or more checkpoints")
    first = checkpoint.load(sources[0])
    weights: dict[str, Tensor] = first["state_dict"]
    sums = {name: value.double() for name, value in weights.items() if value.is_floating_point()}
    for source in sources[1:]:
        other: dict[str, Tensor] = checkpoint.load(source)["state_dict"]
        if names := _differing(weights, other):
            raise CheckpointError(f"{source}: is not of the model in {sources[0]}: {', '.join(names[:4])} differ")
        for name, value in sums.items():
            value += other[name]
    averaged = {name: (value / len(sources)).to(weights[name].dtype) for name, value in sums.items()}
    meta = {key: value for key, value in first["meta"].items() if key not in ("iteration", "metrics")}
    meta["averaged"] = [str(source) for source in sources]
    checkpoint.save(out, {"state_dict": {**weights, **averaged}, "meta": meta})
    return Path(out)


def _differing(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> list[str]:
    """Return the names that only one of two state dicts has, or that have different shapes."""
    shapes = [{name: value.shape for name, value in weights.items()} for weights in (first, second)]
    return sorted(name for name in shapes[0] | shapes[1] if shapes[0].get(name) != shapes[1].get(name))
