"""``seg-kernel doctor``: what counts as wrong, and the exit code."""

from __future__ import annotations

import json
from collections import namedtuple
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from segplug_training import doctor

Usage = namedtuple("Usage", "total used free")


def states(**expected: str) -> dict[str, str]:
    found = {finding.about.replace(" ", "_"): finding.state for finding in doctor.examine()}
    return {about: found[about] for about in expected}


def disk(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: Usage(2 * free, free, free))


def test_a_small_shared_memory_and_a_full_disk_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    disk(monkeypatch, 64 * 2**20)
    wrong = {"work_directory": "wrong", "cache": "wrong"}
    assert states(**wrong) == wrong
    assert [finding.state for finding in doctor._shared_memory(doctor.Path())] == ["wrong"]


def test_more_threads_than_cores_are_wrong() -> None:
    assert [doctor._threads(*pair).state for pair in ((8, 4), (4, 4), (1, 4))] == ["wrong", "ok", "note"]


def test_an_unmet_requirement_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["numpy<0.1", "segplug-nowhere>=1", "unwanted; extra == 'plot'", "click>=1"]
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: lines)
    found = list(doctor.unmet_requirements("some-plugin"))
    assert [requirement for _, requirement in found] == ["numpy<0.1", "segplug-nowhere>=1"]
    assert "which is not installed" in found[1][0]


def test_a_check_that_fails_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def _disk() -> Iterator[doctor.Finding]:
        raise PermissionError("no access")
        yield

    monkeypatch.setattr(doctor, "_disk", _disk)
    last = doctor.examine()[-1]
    assert (last.about, last.state) == ("disk", "wrong")
    assert "no access" in last.text


@pytest.mark.parametrize("state", ["ok", "note", "wrong"])
def test_the_exit_code_says_whether_something_is_wrong(monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    finding = doctor.Finding("disk", state, "is full", "free space")  # type: ignore[arg-type]
    monkeypatch.setattr(doctor, "examine", lambda: [finding])
    invoke = CliRunner().invoke
    for arguments in ([], ["--json"]):
        result = invoke(doctor.command, arguments, standalone_mode=False)
        assert result.return_value == int(state == "wrong")
    assert json.loads(result.output)[0]["about"] == "disk"
