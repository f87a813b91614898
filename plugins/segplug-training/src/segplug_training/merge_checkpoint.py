"""``seg-kernel merge-checkpoint``: one file of a sharded checkpoint."""

from __future__ import annotations

from pathlib import Path

import click

from segkernel.errors import UsageError


@click.command("merge-checkpoint")
@click.argument("source", metavar="CHECKPOINT", type=click.Path(path_type=Path), help="A sharded checkpoint.")
@click.argument("out", metavar="FILE", type=click.Path(path_type=Path), help="The file to write.")
def command(source: Path, out: Path) -> None:
    """Merge a sharded CHECKPOINT, a .pt file and the folder of shards next to it, into one FILE.

    FILE can be used like any other checkpoint and does not need the folder. Runs in one process.

    \b
    Examples:
      seg-kernel merge-checkpoint iter_0001000.pt merged.pt
    """
    merge_checkpoint(source, out)
    click.echo(f"wrote {out}\nnext   seg-kernel predict {out} IMAGE... --out predictions")


def merge_checkpoint(source: str | Path, out: str | Path) -> Path:
    """Write a sharded checkpoint as a single file; return that.

    Args:
        source: The file that names the folder of shards.
        out: The file to write.

    Raises:
        CheckpointError: When the source is damaged, or its folder is missing.
        UsageError: When the source is not sharded.
    """
    from segkernel import checkpoint
    from segplug_training.sharded_checkpoint import is_sharded

    state = checkpoint.load(source)
    if not is_sharded(Path(source)):
        raise UsageError(f"{source}: is a single file already")
    checkpoint.save(out, {key: value for key, value in state.items() if key != "path"})
    return Path(out)
