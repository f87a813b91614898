from __future__ import annotations

from click.testing import CliRunner

from segplug_my_model.command import command


def test_it_greets_as_often_as_asked() -> None:
    result = CliRunner().invoke(command, ["--count", "2"])
    assert result.output.splitlines() == ["hello from segplug-my-model"] * 2
    assert result.exit_code == 0
