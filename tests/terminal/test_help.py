"""The help of every command, and the messages about commands, keys and names that are called otherwise here."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import click
import pytest

from segkernel import cli
from segkernel.catalog import Catalog


@pytest.fixture(autouse=True, scope="module")
def needs() -> None:
    for package in ("torch", "segplug_backbones", "segplug_heads", "segplug_datasets", "segplug_training"):
        pytest.importorskip(package)


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    done = capsys.readouterr()
    return int(caught.value.code or 0), done.out, done.err


MISTAKES = {
    "train": "it is seg-kernel run CONFIG",
    "val": "it is seg-kernel test CONFIG WEIGHTS",
    "validate": "it is seg-kernel test CONFIG WEIGHTS",
    "help": "it is seg-kernel --help",
    "config show quickstart lr=0.1": "it is optim.optimizer.lr",
    "config show quickstart epochs=10": "it is schedule.epochs",
    "config show quickstart batch_size=4": "optim.batch_size",
    "config show segformer_b0": "did you mean segformer_mit-b0_",
    "config show deeplabv3+_r50-d8": "did you mean deeplabv3plus_r50-d8_",
}


def test_names_of_other_tools_get_the_right_one(capsys: pytest.CaptureFixture[str]) -> None:
    found = {line: call(capsys, *line.split()) for line in MISTAKES}
    wrong = {line: err for line, (code, _, err) in found.items() if code != 2 or MISTAKES[line] not in err}
    assert wrong == {}


def test_a_key_is_not_offered_as_a_new_section(capsys: pytest.CaptureFixture[str]) -> None:
    assert "adds a new key" not in call(capsys, "config", "show", "quickstart", "lr=0.1")[2]


def test_every_command_has_a_description_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    _, written, _ = call(capsys, "--help")
    names = Catalog.discover().names("commands")
    described = {line.split()[0]: line.split(maxsplit=1)[1] for line in written.splitlines() if len(line.split()) > 1}
    assert {name for name in names if described.get(name, "from ").startswith("from ")} == set()


def commands() -> Iterator[tuple[str, click.Command]]:
    context = click.Context(cli.cli)
    for name in cli.cli.list_commands(context):
        yield from _with_children(name, cli.cli.get_command(context, name))


def _with_children(name: str, command: click.Command | None) -> Iterator[tuple[str, click.Command]]:
    assert command is not None
    yield name, command
    if isinstance(command, click.Group):
        for child in command.list_commands(click.Context(command)):
            yield from _with_children(f"{name} {child}", command.get_command(click.Context(command), child))


def test_the_examples_in_the_help_name_existing_commands_and_options() -> None:
    known = dict(commands())
    wrong = []
    for name, command in known.items():
        texts = map(str.strip, (command.help or "").splitlines())
        lines = [text for text in texts if text.startswith("seg-kernel ")]
        wrong += [name] * (not lines)
        for line in set(lines) - {"seg-kernel --install-completion"}:
            words = shlex.split(line.partition(" > ")[0])[1:]
            found = next((known[" ".join(words[:n])] for n in (2, 1) if " ".join(words[:n]) in known), None)
            flags = {flag for option in (found.params if found else []) for flag in option.opts}
            flags |= {"--dry-run", "--launch"}
            wrong += [line] * (found is None or any(word not in flags for word in words if word.startswith("--")))
    assert wrong == []


def test_the_tab_key_completes_packaged_configs_and_components() -> None:
    from segplug_training.completion import completions

    assert completions("seg-kernel run quicks", "zsh") == ["quickstart"]
    assert "model.decode_head.type=PSPHead" in completions("seg-kernel run quickstart model.decode_head.type=P", "zsh")
    assert completions("seg-kernel explain PSPH", "zsh") == ["PSPHead"]
    assert completions("seg-kernel explain quicks", "zsh") == ["quickstart"]
    assert completions("seg-kernel data st", "zsh") == ["stats"]
