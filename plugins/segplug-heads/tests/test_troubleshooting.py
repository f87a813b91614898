"""Messages of the command line name their section of the page on troubleshooting, and ``explain`` prints it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from segkernel.cli import main
from segkernel.errors import (
    AmbiguousComponentError,
    DataError,
    Interrupted,
    NotInstalledError,
    UnknownComponentError,
    UntrustedError,
    worker_crash_of,
)
from segplug_heads.commands.explain import command
from segplug_heads.reference.troubleshooting import help_for, sections

MESSAGES = {
    "no-component-is-called": UnknownComponentError("heads", "PSPHaed", ["PSPHead"]),
    "needs-a-package-that-is-not-installed": NotInstalledError("heads", "PSPHead", "segplug-heads"),
    "is-offered-times": AmbiguousComponentError("heads", "PSPHead", ["a/PSPHead", "b/PSPHead"]),
    "interrupted-by-signal": Interrupted(15, "iter_10.pt"),
    "the-config-in-this-weights-file-names": UntrustedError("my_heads.py", "model.decode_head"),
    "a-data-loader-worker-was-killed": worker_crash_of(RuntimeError("DataLoader worker (pid 7) is killed")),
    "but-has-classes": "my.yaml:6:3 data.num_classes: 3, but FolderDataset has 2 classes",
    "the-loss-is-at-iteration": "the loss is nan at iteration 120; nothing was saved before",
    "out-of-memory": "iteration 3: CUDA out of memory\n    reduce data.micro_batch",
    "": DataError("is no image", "a.png"),
}


def test_messages_have_their_sections() -> None:
    assert {name: help_for(f"Error: {message}") for name, message in MESSAGES.items()} == {
        name: name and f"help: seg-kernel explain {name} (docs: troubleshooting/{name}/)" for name in MESSAGES
    }
    assert help_for("out of memory") == "", "only messages, not names that are looked up"


def test_the_command_line_prints_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "my.yaml").write_text("optim: {batch_size: 8}\n", "utf-8")
    with pytest.raises(SystemExit, match="2"):
        main(["config", "check", str(tmp_path / "my.yaml"), "optim.bach_size=4"])
    line = "help: seg-kernel explain no-such-key-in-the-config (docs: troubleshooting/no-such-key-in-the-config/)"
    assert capsys.readouterr().err.endswith(f"\n{line}\n")


@pytest.mark.parametrize("name", [*sections(), "troubleshooting"])
def test_explain_prints_a_section_without_markup(name: str) -> None:
    result = CliRunner().invoke(command, [name], catch_exceptions=False)
    assert result.exit_code == 0
    assert len(result.output) > 100
    assert "](" not in result.output
    assert "```" not in result.output
