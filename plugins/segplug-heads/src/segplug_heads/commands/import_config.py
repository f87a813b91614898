"""``seg-kernel import``: a config of MMSegmentation, or of another format that is installed, as YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command("import")
@click.argument("config", type=click.Path(path_type=Path), help="The file: Python, YAML or JSON, of 0.x or 1.x.")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="The file to write; - prints it. [default: the config's name, with .yaml or _imported.yaml]",
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

    Installed packages add other formats: segplug-instances the YAML files of Detectron.

    \b
    Examples:
      seg-kernel import my_segformer.py
      seg-kernel import e2e_mask_rcnn.yaml -o mine.yaml
      seg-kernel import my_segformer.py --full -o configs/my_segformer.yaml
    """
    from segkernel.errors import UsageError
    from segplug_heads.former_names import GUIDE
    from segplug_heads.moving_in.importing import import_config
    from segplug_heads.moving_in.written import written

    own = Path(f"{config.stem}.yaml").absolute() == config.absolute()  # a YAML file in the current folder
    target = Path(output or f"{config.stem}{'_imported' if own else ''}.yaml")
    if output != "-" and target.exists() and not force:
        raise UsageError(f"{target} exists; -o FILE writes another file, --force replaces it")
    other = _of_other_format(config, full)
    if other is None:
        imported = import_config(config, devices=devices, folder=configs)
        text, notes = written(imported, full), [str(note) for note in imported.notes]
        what = f"MMSegmentation {imported.version}, {_base(imported.base)} (docs: {GUIDE})"
    else:
        text, notes, what = other
    if output == "-":
        click.echo(text, nl=False)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, "utf-8")
        click.echo(f"{target}: {what}")
    for note in notes:
        click.echo(f"  {note}", err=True)
    if output != "-":
        click.echo(f"next: seg-kernel config check {target}, seg-kernel run {target}")


def _of_other_format(config: Path, full: bool) -> tuple[str, list[str], str] | None:
    """Return text, notes and base of a file that another config source converts; None for other files."""
    from segkernel.catalog import Catalog
    from segkernel.config import load_config
    from segkernel.config.show import to_yaml
    from segkernel.config.sources import installed_sources

    sources: list[Any] = [each for each in installed_sources(Catalog.discover()) if hasattr(each, "convert")]
    for source in sources:
        if (found := source.find(str(config))) is not None:
            layer, notes = source.convert(found)
            head = [f"# Imported from {config.name}.", *(["# Not carried over:"] if notes else [])]
            lines = "".join(f"{line}\n" for line in [*head, *(f"#   {note}" for note in notes)])
            body = to_yaml(load_config(layer).data) if full else to_yaml(layer).replace("$${", "${")  # its references
            return lines + body, notes, _base(layer.get("_base_", ""))
    return None


def _base(name: str) -> str:
    return f"as a change of {name}" if name else "without a packaged base"
