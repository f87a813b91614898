"""``seg-kernel completion``: completion by the Tab key in bash, zsh and fish; the same as ``--install-completion``.

The script of a shell passes the line up to the cursor to ``seg-kernel completion SHELL --complete`` as ``COMP_LINE``.
Nothing that imports torch is imported to complete it.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem, ShellComplete

from segkernel.catalog import Catalog
from segkernel.cli import cli
from segkernel.errors import SegKernelError, UsageError
from segkernel.files import replacing

SCRIPTS = {
    # bash splits words at "=" and ":", so only what follows the last of them is replaced.
    "bash": """\
_seg_kernel() {
    local IFS=$'\\n'
    COMPREPLY=($(COMP_LINE="${COMP_LINE:0:COMP_POINT}" "$1" completion bash --complete 2>/dev/null))
    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[=./] ]] && compopt -o nospace
    return 0
}
complete -o bashdefault -o default -F _seg_kernel seg-kernel
""",
    "zsh": """\
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
_seg_kernel() {
    local line="${(j: :)words[1,CURRENT-1]} $PREFIX"
    local -a found open
    found=("${(@f)$(COMP_LINE="$line" ${words[1]} completion zsh --complete 2>/dev/null)}")
    found=(${found:#})
    if (( ! $#found )); then _files; return; fi
    open=(${(M)found:#*[=./]})
    found=(${found:#*[=./]})
    compadd -- $found
    compadd -S '' -- $open
}
compdef _seg_kernel seg-kernel
""",
    "fish": """\
function __seg_kernel_complete
    set -lx COMP_LINE (commandline -cp)
    seg-kernel completion fish --complete 2>/dev/null
end
complete -c seg-kernel -a '(__seg_kernel_complete)'
""",
}
"""The script of each shell."""

MARK = "# completion of seg-kernel"
CONFIGS = ("config", "model")
"""Names of arguments and options of commands that are configs."""


@click.command("completion")
@click.argument(
    "shell", required=False, type=click.Choice(list(SCRIPTS)), help="The shell; that of the environment if left out."
)
@click.option("--show", is_flag=True, help="Print the script instead of installing it.")
@click.option("--complete", is_flag=True, hidden=True, help="Print the completions of the line in COMP_LINE.")
def command(shell: str | None, show: bool, complete: bool) -> None:
    """Install completion by the Tab key for SHELL, by default the one in use; the same as --install-completion.

    It completes commands, options, config names, keys of overrides, and component names after ``type=``.

    \b
    Examples:
      seg-kernel --install-completion
      seg-kernel completion zsh
      seg-kernel completion bash --show
    """
    shell = shell or _shell_in_use()
    if complete:
        for text in completions(os.environ.get("COMP_LINE", ""), shell):
            click.echo(text)
    elif show:
        click.echo(SCRIPTS[shell], nl=False)
    else:
        for line in install(shell, Path.home()):
            click.echo(line)


def _shell_in_use() -> str:
    name = Path(os.environ.get("SHELL", "")).name
    if name not in SCRIPTS:
        known = ", ".join(SCRIPTS)
        raise UsageError(f"the shell in use is not known ($SHELL is {name or 'not set'}); name one: {known}")
    return name


def install(shell: str, home: Path) -> list[str]:
    """Write a shell's script below ``home``, and a line that reads it into the shell's own file; return what was done.

    A second call changes nothing but the script.
    """
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    if shell == "fish":  # reads its folder of completions by itself
        script = config / "fish" / "completions" / "seg-kernel.fish"
        _write(script, SCRIPTS[shell])
        return [f"wrote {script}", "next: open a new shell"]
    script = config / "seg-kernel" / f"completion.{shell}"
    start = (Path(os.environ.get("ZDOTDIR") or home) if shell == "zsh" else home) / f".{shell}rc"
    _write(script, SCRIPTS[shell])
    line = f"source {shlex.quote(str(script))}  {MARK}"
    before = start.read_text("utf-8") if start.is_file() else ""
    if line in before.splitlines():
        return [f"wrote {script}", f"{start} reads it already"]
    kept = [each for each in before.splitlines() if not each.endswith(MARK)]
    _write(start, "\n".join([*kept, line, ""]))
    return [f"wrote {script}", f"added one line to {start}", f"next: open a new shell, or: source {start}"]


def _write(path: Path, text: str) -> None:
    target = path.resolve()  # a start file is often a link into a repository
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as temporary:
        temporary.write_text(text, "utf-8")
        if target.exists():
            temporary.chmod(target.stat().st_mode & 0o7777)


# ---------------------------------------------------------------- completing


def completions(line: str, shell: str) -> list[str]:
    """Return what may replace the last word of a line; empty where file names are to be completed."""
    words, incomplete = _split(line)
    try:
        _complete_arguments(words)
        items = ShellComplete(cli, {}, "seg-kernel", "").get_completions(words, incomplete)
    except (SegKernelError, click.ClickException, OSError):
        return []
    texts = [item.value for item in items if item.type == "plain"]
    if shell != "bash":
        return texts
    dropped = max(incomplete.rfind(mark) for mark in "=:") + 1
    return [text[dropped:] for text in texts]


def _split(line: str) -> tuple[list[str], str]:
    """Return the complete words of a line after the program, and the last, incomplete one."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters = True, ""
    words: list[str] = []
    try:
        words.extend(lexer)
    except ValueError:  # an open quotation mark
        words.append(lexer.token)
    incomplete = words.pop() if words and not line[-1:].isspace() else ""
    return words[1:], incomplete


def _complete_arguments(words: list[str]) -> None:
    """Give the arguments of the command in a line the types that complete them."""
    found: click.Command | None = cli
    for word in words:
        if not isinstance(found, click.Group):
            break
        if not word.startswith("-"):
            found = found.get_command(click.Context(found), word)
    for parameter in found.params if found is not None else ():
        if parameter.type is click.STRING and parameter.name in CONFIGS:
            parameter.type = _Config()
        elif parameter.type is click.STRING and isinstance(parameter, click.Argument):
            parameter.type = _Explained() if words[:1] == ["explain"] else _Words()


class _Config(click.ParamType):
    """A config's name, or a file."""

    name = "config"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(name) for name in [*_files(incomplete), *config_names(incomplete)]]


class _Explained(click.ParamType):
    """The name of a component or of a config."""

    name = "name"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        names = {row.name for row in Catalog.discover().rows if row.status == "ok" and row.name.startswith(incomplete)}
        return [CompletionItem(name) for name in sorted({*names, *config_names(incomplete)})]


class _Words(click.ParamType):
    """Overrides, or other words such as files; the config may be among them."""

    name = "words"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        given = [ctx.params.get(name) for name in CONFIGS]
        more = ctx.params.get(param.name or "") or ()
        source = next((str(one) for one in (*given, *more) if one and "=" not in str(one)), "")
        if not source and "CONFIG" in str(param.metavar):
            return [CompletionItem(name) for name in [*_files(incomplete), *config_names(incomplete)]]
        if not source or "KEY" not in str(param.metavar):
            return []
        return [CompletionItem(text) for text in overrides(source, incomplete)]


def _files(incomplete: str) -> Iterator[str]:
    """Yield YAML files and folders whose path begins with ``incomplete``."""
    folder, _, name = incomplete.rpartition("/")
    for path in sorted(Path(folder or ("/" if incomplete.startswith("/") else ".")).glob(f"{name}*")):
        before = incomplete[: len(incomplete) - len(name)]
        if path.suffix in (".yaml", ".yml"):
            yield f"{before}{path.name}"
        elif name or folder:
            yield from [f"{before}{path.name}/"] * path.is_dir()


def config_names(incomplete: str) -> list[str]:
    """Return the names of packaged configs that begin with ``incomplete``, without their package."""
    from segkernel.config.sources import installed_sources

    names = [name for source in installed_sources(Catalog.discover()) for name in source.names()]
    short = [name if incomplete.count("::") else name.rpartition("::")[2] for name in names]
    return sorted({name for name in short if name.startswith(incomplete) and not name.endswith(".yaml")})


def overrides(source: str, incomplete: str) -> list[str]:
    """Return the keys, ``optim.batch_size=``, or values, ``model.type=Name``, that begin with ``incomplete``."""
    from segkernel.config import load_config

    mode = incomplete[0] if incomplete[:1] in ("+", "~") else ""
    key, equals, _ = incomplete[len(mode) :].partition("=")
    data = load_config(source).data
    found = [f"{key}={value}" for value in _values(data, key)] if equals else _keys(data, key, mode != "~")
    return [mode + text for text in found if (mode + text).startswith(incomplete)]


def _keys(data: Mapping[str, Any], key: str, declared: bool) -> Iterator[str]:
    """Yield the keys below the same parent as ``key``: ``.`` follows those of mappings, ``=`` all others."""
    from segkernel.config.overrides import declared_keys

    above = key.rpartition(".")[0]
    path = tuple(above.split(".")) if above else ()
    node = _node(data, path)
    known = list(node) if isinstance(node, Mapping) else []
    names = dict.fromkeys([*known, *(declared_keys(path) if declared else ())])
    for name in (str(name) for name in names if name != "_meta_"):
        value = node.get(name) if isinstance(node, Mapping) else None
        deeper = isinstance(value, Mapping) or declared_keys((*path, name))
        yield ".".join((*path, name)) + ("." if deeper else "=" if declared else "")


def _values(data: Mapping[str, Any], key: str) -> Iterable[str]:
    """Return the values to offer: the components of the same group for a ``type``, yes and no, else the present one."""
    *path, name = key.split(".")
    value = (_node(data, tuple(path)) or {}).get(name)
    if name == "type":
        catalog = Catalog.discover()
        groups = {row.group for row in catalog.rows if row.name == value}
        if groups:  # an optimizer is torch's own, which only torch could list
            return sorted({name for group in groups for name in catalog.names(group)})
    if isinstance(value, bool):
        return ["true", "false"]
    return [str(value)] if isinstance(value, int | float | str) else []


def _node(data: Any, path: tuple[str, ...]) -> Any:
    for step in path:
        data = data.get(step) if isinstance(data, Mapping) else None
    return data
