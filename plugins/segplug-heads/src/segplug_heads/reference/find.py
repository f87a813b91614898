"""Entries by name: components, configs of the zoo, groups, config keys, hook methods, commands, errors and exit codes.

    find("PSPHead"), find("optim.paramwise"), find("after_validation"), find("data check"), find("3")

Only the entry of a component imports anything, its own module.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, get_args, get_origin

import click

from segkernel import errors, hookspecs
from segkernel.catalog import GROUPS, USUAL, Catalog, Row
from segkernel.cli import COMMANDS, cli
from segkernel.config.sections import Sections
from segkernel.errors import ComponentError, SegKernelError, UnknownComponentError, UsageError, did_you_mean
from segkernel.signature import LISTS, UNIONS, Parameter, describe, group_of, is_record, signature, unwrap
from segplug_heads.reference.configs import config_entries, near_configs
from segplug_heads.reference.docstrings import argument_text, cited_in, summary_of
from segplug_heads.reference.entry import Argument, Entry, arguments_of, source_of
from segplug_heads.reference.examples import GIVEN, example_of, placed, used_at, value_of
from segplug_heads.reference.troubleshooting import sections
from segplug_heads.reference.yaml_text import block, flow

if TYPE_CHECKING:
    from segkernel.interfaces.model import WeightFormat

NO_EXAMPLE = ("outputs", "weight_formats", "config_sources", "former_names", "config_checks", "quick_checks",
              "commands", "zoo", "predictors")  # fmt: skip
"""Groups whose members are not named by ``type:`` in a config."""
NOT_SUPPORTED = ("LBFGS", "SparseAdam")
"""Optimisers of torch that need another loop or other gradients."""


def find(name: str, catalog: Catalog) -> list[Entry]:
    """Return every entry of a name, at least one.

    Raises:
        UsageError: Nothing is called so; the message has near names.
        ComponentError: The component cannot be imported, or needs a package that is not installed.
    """
    kinds = (_key, _moment, _command, _exit_code, _error, _group, _topic)
    found = [entry for kind in kinds for entry in kind(name, catalog)]
    if ":" in name:
        target = catalog.load("parts", name)
        return [component(group_of(target) or "parts", catalog.find("parts", name), target, catalog)]
    for group in _groups_of(name, catalog):
        row = catalog.find(group, name)
        found.append(component(group, row, catalog.load_row(row), catalog))
    found = found or list(config_entries(name)) or list(_topic(name.lower().replace(" ", "-"), catalog))
    if not found and find_spec("torch") and _has("optimizers", name, catalog):  # may be one of torch's
        row = catalog.find("optimizers", name)
        found.append(component("optimizers", row, catalog.load_row(row), catalog))
    if not found:
        raise _unknown(name, catalog)
    return found


def component(group: str, row: Row, target: Any, catalog: Catalog) -> Entry:
    """Return the entry of a component that was imported."""
    text = "\n\n".join(filter(None, [summary_of(target), cited_in(target)]))
    arguments, example = [], ""
    if callable(target):
        given = GIVEN.get(group, ())
        arguments = arguments_of(each for name, each in signature(target).items() if name not in given)
        example = "" if group in NO_EXAMPLE else placed(group, example_of(group, row, target, catalog))
    return Entry(
        row.name or row.value,
        f"one of the {group}",
        text,
        arguments,
        example=_of_format(row.name, target) if group == "weight_formats" else ("yaml", example),
        source=source_of(row),
    )


def _of_format(name: str, target: type[WeightFormat]) -> tuple[str, str]:
    """Return how weights of a format are named: it has no arguments, but files, addresses or keys of its own."""
    own = {each for base in target.__mro__ if base.__module__ != "segkernel.interfaces.model" for each in vars(base)}
    if "convert" in own:
        return "console", f"seg-kernel convert FILE CONFIG --format {name}\n"
    source = "https://HOST/weights.pth" if "locate" in own else f"weights{next(iter(target.suffixes), '.pt')}"
    return "yaml", block({"model": {"pretrained": source}})


def component_entries(group: str, catalog: Catalog) -> Iterator[Entry]:
    """Yield the entry of every component of a group, with torch's own optimisers; all are imported."""
    rows = catalog.rows_of(group)
    if group == "optimizers":
        rows += [catalog.find(group, name) for name in _torch_optimizers() if name not in NOT_SUPPORTED]
    for row in rows:
        yield component(group, row, catalog.load_row(row), catalog)


def section_entries(catalog: Catalog) -> Iterator[Entry]:
    """Yield the entry of every top-level key of a config."""
    for name in signature(Sections):
        yield from _key(name, catalog)


def moment_entries(catalog: Catalog) -> Iterator[Entry]:
    """Yield the entry of every hook method, in the order of a run."""
    for name in hookspecs.MOMENTS:
        yield from _moment(name, catalog)


def command_entries(catalog: Catalog) -> Iterator[Entry]:
    """Yield the entry of every command and subcommand."""
    for name in sorted([*COMMANDS, *catalog.names("commands")]):
        yield from _command_tree(name, catalog)


def exit_code_entries(catalog: Catalog) -> Iterator[Entry]:
    """Yield the entry of every exit code."""
    for code in _exit_codes():
        yield from _exit_code(code, catalog)


# ---------------------------------------------------------------- keys


def _key(path: str, catalog: Catalog) -> Iterator[Entry]:
    """Yield the entry of a dotted key, ``optim.paramwise``."""
    parameter: Parameter | None = None
    annotation: Any = Sections
    for step in path.split("."):
        parameter = _keys_of(annotation, catalog).get(re.sub(r"\[\d+\]$", "", step))
        if parameter is None:
            return
        annotation = parameter.annotation
    assert parameter is not None
    keys, group = _keys_of(annotation, catalog), _group_in(annotation)
    names: tuple[str, list[str]] = ("", [])
    if group:
        usual = f"; without type: {catalog.usual(group)}" if group in USUAL else ""
        names = (f"{group}{usual}", catalog.names(group))
    default = f" Default: {flow(parameter.default)}." if _is_plain(parameter.default) else ""
    text = f"{argument_text(parameter)}\n\nType: {describe(annotation)}.{default}".strip()
    example = ("yaml", _example_of_key(path, parameter, catalog))
    yield Entry(path, "config key", text, arguments_of(keys.values()), names, example, "seg-kernel", "keys")


def _example_of_key(path: str, parameter: Parameter, catalog: Catalog) -> str:
    """Return a key with the value that it usually has in the packaged configs, its default, or any valid one."""
    annotation = parameter.annotation
    group, keys = _group_in(annotation), _keys_of(annotation, catalog)
    any_plain = (bool, int, float, str, list, dict)
    kinds = (list,) if group and _is_list(annotation) else (dict,) if group or keys else any_plain
    value = used_at(path, kinds)
    if value is None and not (group or keys) and _is_plain(parameter.default):
        value = parameter.default
    value = value_of(annotation, parameter.name, catalog) if value in (None, ()) else value
    for step in reversed(path.split(".")):
        value = {step: value}
    return block(value)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, tuple, list, dict))


def _arms(annotation: Any) -> list[Any]:
    kind, _ = unwrap(annotation)
    return list(get_args(kind)) if get_origin(kind) in UNIONS else [kind]


def _group_in(annotation: Any) -> str | None:
    """Return the group of components that a key takes, alone or as a list."""
    for arm in _arms(annotation):
        inner = get_args(arm)[0] if get_args(arm) else arm
        if group := group_of(arm) or group_of(unwrap(inner)[0]):
            return group
    return None


def _is_list(annotation: Any) -> bool:
    return any((get_origin(arm) or arm) in LISTS for arm in _arms(annotation))


def _keys_of(annotation: Any, catalog: Catalog) -> dict[str, Parameter]:
    """Return the keys below a value: those of a section, or the arguments of the component that needs no ``type``."""
    for arm in _arms(annotation):
        if is_record(arm):
            return dict(signature(arm))
        if (group := group_of(arm)) in USUAL and (usual := catalog.usual(str(group))) in catalog.names(str(group)):
            return dict(signature(catalog.load(str(group), usual)))
    return {}


def all_keys(annotation: Any = Sections, before: str = "") -> Iterator[str]:
    """Yield the keys of all sections, which need no import."""
    for name, parameter in signature(annotation).items():
        yield before + name
        for arm in _arms(parameter.annotation):
            if is_record(arm):
                yield from all_keys(arm, f"{before}{name}.")


# ---------------------------------------------------------------- the rest


def _moment(name: str, catalog: Catalog) -> Iterator[Entry]:
    if name in hookspecs.MOMENTS:
        function = getattr(hookspecs.Moments, name)
        parameters = [each for each in inspect.signature(function).parameters.values() if each.name != "self"]
        arguments = [
            Argument(each.name, str(each.annotation), "", _OF_MOMENTS.get(each.name, "")) for each in parameters
        ]
        listed = ", ".join(each.name for each in parameters)
        example = (
            f"from segkernel import hookimpl\n\n\nclass MyHook:\n    @hookimpl\n    def {name}(self, {listed}): ...\n"
        )
        yield Entry(
            name,
            "hook method",
            f"{summary_of(function)}\n\nA hook declares only the arguments that it uses.",
            arguments,
            example=("python", example),
            source="seg-kernel, segkernel.hookspecs:Moments",
        )


_OF_MOMENTS = {
    "run": "The run: `iteration`, `model`, `metrics`, `work_dir`, `is_main`, `stop(reason)`, ...",
    "batches": "The micro-batches of the step.",
    "losses": "Losses by name, detached, on the device.",
    "epoch": "Number of completed epochs.",
    "record": "Plain numbers by name.",
    "prediction": "The prediction at the image's own size.",
    "target": "The labels at the image's own size.",
    "metrics": "Metrics by name, in percent where they are shares.",
    "checkpoint": "The content of the checkpoint.",
    "path": "The file.",
    "error": "The exception that ends the run.",
}


def _command(name: str, catalog: Catalog) -> Iterator[Entry]:
    first, *rest = name.split() or [""]
    if first not in [*COMMANDS, *catalog.names("commands")]:
        return
    command = cli.get_command(click.Context(cli), first)
    for word in rest:
        command = command.get_command(click.Context(command), word) if isinstance(command, click.Group) else None
    if command is not None:
        yield _command_entry(name, command, catalog)


def _command_tree(name: str, catalog: Catalog) -> Iterator[Entry]:
    for entry in _command(name, catalog):
        yield entry
        for below in entry.names[1]:
            yield from _command_tree(below, catalog)


def _command_entry(name: str, command: click.Command, catalog: Catalog) -> Entry:
    context = click.Context(command, info_name=f"seg-kernel {name}")
    options = []
    for parameter in command.get_params(context):
        if record := parameter.get_help_record(context):
            flag, text = record
            default = re.search(r"\[default: (.+?)\]", text)
            options.append(Argument(flag, "", default[1] if default else "", text.partition("  [")[0]))
    text, _, examples = inspect.cleandoc(command.help or "").partition("\b\nExamples:\n")
    usage = f"seg-kernel {name} {' '.join(command.collect_usage_pieces(context))}"
    below = [f"{name} {each}" for each in command.list_commands(context)] if isinstance(command, click.Group) else []
    row = next((row for row in catalog.rows_of("commands") if row.name == name.split()[0]), None)
    return Entry(
        name,
        "command",
        text.replace("\b", "").rstrip(),
        options,
        ("subcommands", below) if below else ("", ()),
        ("console", "\n".join([usage, *map(str.strip, examples.splitlines())])),
        source_of(row) if row else "seg-kernel",
        "options",
    )


def _exit_codes() -> dict[str, str]:
    """Return the meaning of each exit code, from the help text of ``seg-kernel``."""
    text = " ".join(str(cli.help).split()).partition("Exit codes:")[2].strip(" .")
    return dict(part.strip().split(" ", 1) for part in text.split(";"))


def _exit_code(name: str, catalog: Catalog) -> Iterator[Entry]:
    codes = _exit_codes()
    if name in codes:
        kinds = [each for each in _errors() if str(each.exit_code) == name]
        arguments = [Argument(each.__name__, "", "", summary_of(each).split("\n\n")[0]) for each in kinds]
        text = codes[name][:1].upper() + codes[name][1:] + "."
        yield Entry(name, "exit code", text, arguments, source="seg-kernel, segkernel.errors", heading="errors")


def _errors() -> list[type[SegKernelError]]:
    return [each for each in vars(errors).values() if inspect.isclass(each) and issubclass(each, SegKernelError)]


def _error(name: str, catalog: Catalog) -> Iterator[Entry]:
    for each in _errors():
        if each.__name__ == name:
            text = f"{summary_of(each)}\n\nExit code: {each.exit_code}."
            yield Entry(name, "exception", text, source="seg-kernel, segkernel.errors")


def _group(name: str, catalog: Catalog) -> Iterator[Entry]:
    if name in GROUPS:
        contract = GROUPS[name].replace(":", ".") or "none"
        text = f"Entry points `segkernel.{name}`. Contract: {contract}."
        yield Entry(name, "group of components", text, names=(name, catalog.names(name)), source="seg-kernel")


def _topic(name: str, catalog: Catalog) -> Iterator[Entry]:
    if name == "troubleshooting":
        yield Entry(name, "topics", "What messages mean and what to do.", names=("topics", list(sections())))
    if name in sections():
        heading, text = sections()[name]
        example = re.search(r"```text\n(.*?)```", text, re.DOTALL)
        text = re.sub(r"```.*?```|\[([^\]]*)\]\([^)]*\)", lambda match: match[1] or "", text, flags=re.DOTALL)
        yield Entry(heading, "troubleshooting", text.strip(), example=("text", example[1] if example else ""))


def _groups_of(name: str, catalog: Catalog) -> list[str]:
    """Return the groups that have a component of this name, installed or not; none has an import path."""
    left_out = ("zoo", "commands", "optimizers", "default_hooks")
    found = [group for group in GROUPS if group not in left_out and _has(group, name, catalog)]
    return found or ["default_hooks"] * _has("default_hooks", name, catalog)


def _has(group: str, name: str, catalog: Catalog) -> bool:
    try:
        catalog.find(group, name)
    except UnknownComponentError:
        return False
    except ComponentError:
        return True
    return True


def _unknown(name: str, catalog: Catalog) -> UsageError:
    commands = [*COMMANDS, *catalog.names("commands")]
    components = [each for group in GROUPS for each in catalog.names(group)]
    keys = list(all_keys())
    last = {key.rpartition(".")[2]: key for key in reversed(keys)}
    known = [*components, *keys, *hookspecs.MOMENTS, *commands, *GROUPS]
    longer = {each for each in components if len(name) > 2 and name.lower() in each.lower()}
    near = sorted(longer, key=lambda each: (len(each), each))[:4]
    near = near or did_you_mean(name, known, limit=4) or [last[key] for key in did_you_mean(name, last, limit=4)]
    near = [last[name], *near] if name in last else near
    near = [*near, *near_configs(name)]
    if not near and find_spec("torch"):
        near = did_you_mean(name, _torch_optimizers())
    hint = catalog.moved(name) or (f"did you mean {' or '.join(dict.fromkeys(near))}?" if near else _KINDS)
    return UsageError(f"nothing is called {name!r}\n    {hint}")


def _torch_optimizers() -> list[str]:
    module = import_module("torch.optim")
    return [name for name, each in vars(module).items() if inspect.isclass(each) and each is not module.Optimizer]


_KINDS = "give a component, a config or a key of one, a hook method, a command, an exception, an exit code or a message"
