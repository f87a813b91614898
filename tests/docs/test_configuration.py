"""The experiments that docs/configuration.md writes down load under their names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from segkernel.config import load_config

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


@pytest.mark.parametrize(
    "name",
    ["tiny_r50_4xb2-40k_toys", "tiny_r18_4xb2-40k_toys", "tiny-original", "tiny_r18-wide_4xb2-40k_toys"],
)
def test_the_experiments_of_the_page_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    for file, block in re.findall(
        r"^```yaml\n# (\S+\.yaml)\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL
    ):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text(block, "utf-8")
    config = load_config(name)
    assert config["optim"]["batch_size"] == 8
    assert config["model"]["decode_head"]["num_classes"] == 4
