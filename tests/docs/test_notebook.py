"""The example notebook runs, and what its cells return is shown as pictures and tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

NOTEBOOK = json.loads((Path(__file__).parents[2] / "examples" / "notebook.ipynb").read_text("utf-8"))
CELLS = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
SHOWN = [
    ("16 samples, 8 classes", 4),
    ("LabelMap (96, 128) uint8", 1),
    ("StreetScenes", 0),
    ("TorchDataset", 4),
    ("%", 1),
]
"""What the page of each cell holds: a text, and the number of pictures."""


@pytest.mark.filterwarnings("ignore")
def test_the_cells_of_the_notebook_show_their_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("IPython", reason="IPython is not installed: pip install -c constraints.txt ipython")
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    assert len(CELLS) == len(SHOWN)
    for cell, (text, pictures) in zip(CELLS, SHOWN):
        result = shell.run_cell(cell)
        result.raise_error()
        html = shell.display_formatter.format(result.result)[0]["text/html"]
        assert text in html, cell
        assert html.count("<img") == html.count("src='data:image/jpeg;base64,") == pictures, cell
        assert len(html) < 300_000, cell
    assert all(cell.get("outputs") in (None, []) for cell in NOTEBOOK["cells"]), "the file is kept without outputs"
