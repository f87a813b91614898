"""An imported config as YAML, with a comment for everything that could not be carried over."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from segkernel.config.show import to_yaml
from segplug_heads.former_names import GUIDE
from segplug_heads.moving_in.importing import Imported, resolved

_WIDTH = 110


def written(imported: Imported, full: bool = False) -> str:
    """Return the text of the file: in its shortest form, or with every value of its base."""
    body = to_yaml(resolved(imported).data) if full else to_yaml(imported.layer)
    return "".join(f"{line}\n" for line in _head(imported)) + body


def _head(imported: Imported) -> Iterator[str]:
    yield f"# Imported from {imported.source.path.name}, a config of MMSegmentation {imported.version} (docs: {GUIDE})."
    if imported.notes:
        yield "# Not carried over, or to be checked:"
    for note in imported.notes:
        line = imported.source.line(note.place) if note.place else ""
        yield from (f"#   {part}" for part in textwrap.wrap(str(note), _WIDTH, subsequent_indent="  "))
        if line:
            yield f"#     > {line[:_WIDTH]}"
