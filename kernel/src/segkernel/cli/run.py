"""``seg-kernel run``: train, validate, test and export."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

import click

from segkernel.cli import CONFIG, OVERRIDES
from segkernel.config import load_config


@click.command("run")
@CONFIG
@OVERRIDES
@click.option("--work-dir", metavar="DIR", help="Run directory. [default: work_dirs/NAME/TIME]")
@click.option(
    "--resume", is_flag=False, flag_value="latest", metavar="[CHECKPOINT]", help="Resume from it, or from the latest."
)
@click.option("--amp", is_flag=True, help="Automatic mixed precision (engine.amp=true).")
@click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps. [default: the config's, or the best available]")
def command(
    config: str, overrides: tuple[str, ...], work_dir: str | None, resume: str | None, amp: bool, device: str | None
) -> None:
    """Train, validate, test and export as CONFIG says, a file or a packaged name.

    KEY=VALUE changes it.

    With segplug-training, --dry-run reports the time and memory that the run would take and trains nothing, and
    --launch N starts N processes.

    \b
    Examples:
      seg-kernel run quickstart
      seg-kernel run my.yaml optim.batch_size=4 schedule.iterations=500
      seg-kernel run my.yaml --resume
      seg-kernel run my.yaml --launch 2
    """
    if resume and "=" in resume and not Path(resume).exists():  # --resume KEY=VALUE: the latest, with overrides
        overrides, resume = (*overrides, resume), "latest"
    changes = [*overrides] + (["+engine.amp=true"] if amp else []) + ([f"+engine.device={device}"] if device else [])
    loaded = load_config(config, changes)
    # What the config says is shown at once: importing torch and listing files takes seconds.
    entries = [entry for part in loaded.values() if hasattr(part, "items") for entry in part.items()]
    named = [(k, v.get("type") if hasattr(v, "items") else v if type(v) is int else None) for k, v in entries]
    click.echo(f"loading {config}: {', '.join(f'{k} {v}' for k, v in named if v is not None)}", err=True)
    click.echo(f"files go to {work_dir or loaded.get('work_dir') or f'work_dirs/{loaded.name}'}", err=True)
    from segkernel.experiment import run

    runner = run(loaded, work_dir=work_dir, resume=True if resume == "latest" else resume or False)
    if runner.is_main:
        click.echo(f"\nrun directory  {runner.work_dir}")
        if best := runner.best_checkpoint():
            click.echo(f"best weights   {best}")
            click.echo(f"next           seg-kernel predict {quote(str(best))} IMAGE... --out predictions")
