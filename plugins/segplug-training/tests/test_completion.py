"""Completion by the Tab key: where it is installed, and what is offered."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from segkernel.errors import UsageError
from segplug_training import completion
from segplug_training.completion import SCRIPTS, completions, install


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a config."""
    text = "optim: {optimizer: {type: SGD, lr: 0.1}}\nschedule: {iterations: 9, lr: []}\nengine: {amp: true}\n"
    (tmp_path / "my.yaml").write_text(text + "data: {sampler: {type: EMAHook}}\n")
    (tmp_path / "notes.txt").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


OFFERED = {
    "seg-kernel mer": ["merge-checkpoint"],
    "seg-kernel run --res": ["--resume"],
    "seg-kernel run my": ["my.yaml"],
    "seg-kernel run 'my": ["my.yaml"],
    "seg-kernel run my.yaml optim.opt": ["optim.optimizer."],
    "seg-kernel run my.yaml optim.optimizer.": ["optim.optimizer.type=", "optim.optimizer.lr="],
    "seg-kernel run my.yaml optim.base": ["optim.base_batch_size="],
    "seg-kernel run --amp my.yaml seed=1 optim.bat": ["optim.batch_size="],
    "seg-kernel run my.yaml engine.amp=": ["engine.amp=true", "engine.amp=false"],
    "seg-kernel run my.yaml +engine.amp=t": ["+engine.amp=true"],
    "seg-kernel run my.yaml ~schedule.it": ["~schedule.iterations"],
    "seg-kernel run my.yaml optim.optimizer.lr=": ["optim.optimizer.lr=0.1"],
    "seg-kernel run my.yaml data.sampler.type=EarlySt": ["data.sampler.type=EarlyStoppingHook"],
    "seg-kernel dry-run run my": ["my.yaml"],
    "seg-kernel config show my.yaml sch": ["schedule."],
    "seg-kernel run nosuch.yaml opt": [],
    "seg-kernel nosuch --x": [],
    "seg-kernel plot no": [],
}


@pytest.mark.usefixtures("project")
def test_commands_options_configs_keys_and_components_are_offered() -> None:
    found = {line: completions(line, "zsh") for line in OFFERED}
    assert {line: texts for line, texts in found.items() if texts != OFFERED[line]} == {}


@pytest.mark.usefixtures("project")
def test_bash_gets_what_follows_its_last_break() -> None:
    assert completions("seg-kernel run my.yaml engine.amp=", "bash") == ["true", "false"]


def test_a_second_installation_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("ZDOTDIR", raising=False)
    (tmp_path / ".bashrc").write_text("alias x=y")
    for shell in SCRIPTS:
        install(shell, tmp_path)
        files = {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
        assert install(shell, tmp_path)
        assert files == {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    first, second = (tmp_path / ".bashrc").read_text().splitlines()
    assert first == "alias x=y"
    assert second.startswith("source ")


def test_an_unknown_shell_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    with pytest.raises(UsageError, match="name one: bash, zsh, fish"):
        completion._shell_in_use()


@pytest.mark.parametrize("shell", SCRIPTS)
def test_the_script_is_valid(tmp_path: Path, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "script").write_text(SCRIPTS[shell])
    assert subprocess.run([shell, "-n", str(tmp_path / "script")], check=False).returncode == 0


@pytest.fixture
def shell_env(project: Path) -> dict[str, str]:
    """The environment of an interactive shell whose home is the working directory, where completion is installed."""
    program = project / "bin" / "seg-kernel"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m segkernel "$@"\n')
    program.chmod(0o755)
    env = {key: value for key, value in os.environ.items() if key not in ("XDG_CONFIG_HOME", "ZDOTDIR")}
    env |= {"HOME": str(project), "PATH": f"{program.parent}:{env['PATH']}", "TERM": "dumb", "PS1": "ready> "}
    for shell in SCRIPTS:
        install(shell, project)
    return env


TYPED = {
    "seg-kernel mer": "merge-checkpoint",
    "seg-kernel run my": "my.yaml",
    "seg-kernel run my.yaml optim.opt": "optim.optimizer.",
    "seg-kernel run my.yaml data.sampler.type=EarlySt": "data.sampler.type=EarlyStoppingHook",
}
"""A command, a file, a key, a component."""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_a_word(shell_env: dict[str, str]) -> None:
    line = "seg-kernel run my.yaml engine.amp=t"
    lines = [SCRIPTS["bash"], f"COMP_LINE='{line} more'", f"COMP_POINT={len(line)}", "_seg_kernel seg-kernel"]
    command = ["bash", "-c", "\n".join([*lines, 'echo "${COMPREPLY[@]}"'])]
    assert subprocess.run(command, env=shell_env, capture_output=True, text=True, check=False).stdout == "true\n"


@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
def test_fish_completes_words(shell_env: dict[str, str]) -> None:
    command = ["fish", "-c", "; ".join(f"complete -C '{line}'" for line in TYPED)]
    done = subprocess.run(command, env=shell_env, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == list(TYPED.values())


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh_completes_words_at_its_prompt(shell_env: dict[str, str]) -> None:
    import pty

    (Path(shell_env["HOME"]) / ".zshrc").open("a").write("PS1='ready> '\n")
    child, terminal = pty.fork()
    if child == 0:
        os.execvpe("zsh", ["zsh", "-i"], shell_env)
    try:
        read_until(terminal, "ready> ")
        for line, word in TYPED.items():
            os.write(terminal, f"{line}\t".encode())
            read_until(terminal, word)
            os.write(terminal, b"\x15")  # Ctrl-U empties the line
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(terminal)


def read_until(terminal: int, text: str, seconds: float = 60) -> None:
    """Read what a terminal shows until it contains a text; fail if nothing more is shown for some seconds."""
    shown = ""
    while text not in shown:
        assert select.select([terminal], [], [], seconds)[0], f"{text!r} is not in {shown!r}"
        shown += os.read(terminal, 4096).decode(errors="replace").replace("\a", "")


@pytest.mark.usefixtures("project")
def test_torch_is_not_imported() -> None:
    code = "from segplug_training.completion import completions as c; import sys\n"
    lines = [line for line in OFFERED if line.startswith("seg-kernel run")]
    code += f"[c(line, 'zsh') for line in {lines!r}]; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
