"""``seg-kernel import``: a config of MMSegmentation as YAML."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("import")
@click.argument("config", type=click.Path(path_type=Path), help="The file: Python, YAML or JSON, of 0.x or 1.x.")
@click.option(
    "-o", "--output", metavar="FILE", help="The file to write; - prints it. [default: the config's name, with .yaml]"
)
@click.option("--full", is_flag=True, help="Write every value instead of a packaged base and what differs.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
@click.option(
    "--devices",
    type=click.IntRange(1, 1 << 16),
    metavar="N",
    help="GPUs that the config was run on, which its batch size is multiplied by. [default: from a name with 8xb2]",
)
@click.option(
    "--configs",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="MMSegmentation's configs, for bases that are not beside the file.",
)
def command(
    config: Path, output: str | None, full: bool, force: bool, devices: int | None, configs: Path | None
) -> None:
    """Write CONFIG, a config of MMSegmentation, as YAML; it is read without being run.

    \b
    Examples:
      seg-kernel import my_segformer.py
      seg-kernel import my_segformer.py --full -o configs/my_segformer.yaml
    """
    from segkernel.errors import UsageError
    from segplug_heads.former_names import GUIDE
    from segplug_heads.moving_in.importing import import_config
    from segplug_heads.moving_in.written import written

    target = Path(output or f"{config.stem}.yaml")
    if output != "-" and target.exists() and not force:
        raise UsageError(f"{target} exists; -o FILE writes another file, --force replaces it")
    imported = import_config(config, devices=devices, folder=configs)
    text = written(imported, full)
    if output == "-":
        click.echo(text, nl=False)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, "utf-8")
        click.echo(f"{target}: MMSegmentation {imported.version}, {_base(imported.base)} (docs: {GUIDE})")
    for note in imported.notes:
        click.echo(f"  {note}", err=True)
    if output != "-":
        click.echo(f"next: seg-kernel config check {target}, seg-kernel run {target}")


def _base(name: str) -> str:
    return f"as a change of {name}" if name else "without a packaged base"
