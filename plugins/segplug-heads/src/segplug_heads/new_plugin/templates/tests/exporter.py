from __future__ import annotations

from pathlib import Path

import pytest

from segkernel.errors import ExportError
from segplug_my_model.exporter import MyModelExporter


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.mymodel"
    path.write_text("not a program")
    with pytest.raises(ExportError, match="not an exported program"):
        MyModelExporter().load(path)


def test_it_runs_on_the_cpu_only(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="CPU"):
        MyModelExporter().load(tmp_path / "model.mymodel", device="cuda")
