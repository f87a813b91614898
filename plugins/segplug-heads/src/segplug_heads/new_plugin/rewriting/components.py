"""Registered classes, as components: base classes, constructors, and methods that are called differently."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from segplug_heads.new_plugin.rewriting.edits import MARK, Source, first_line
from segplug_heads.new_plugin.rewriting.former import HEAD_ARGUMENTS, INTERFACES, MODEL, NN
from segplug_heads.new_plugin.rewriting.imports import WIDTH, Imports

CHANNELS, STRIDES = [32, 64, 160, 256], [4, 8, 16, 32]
"""Of the feature maps of an example: those of the smallest SegFormer."""
CHANNEL = 32
SIZES = ("in_channels", "in_chans", "out_channels", "channels", "num_classes", "embed_dim", "embed_dims", "width")

METHODS = {
    "forward_train": "it is loss(features, targets) here, which returns a dict of scalars",
    "forward_test": "it is predict(features, size) here, which returns logits",
    "losses": "it is loss_by_logits(logits, target, weight) here, which returns a dict of scalars",
    "loss": "it is called with (features, targets), with class ids (N, H, W) in targets['seg']",
    "loss_by_feat": "it is loss_by_logits(logits, target, weight) here, with class ids (N, H, W) as the target",
    "predict": "it is called with (features, size), and returns logits",
    "predict_by_feat": "it is predict(features, size) here; logits are resized later",
    "init_weights": "nothing calls it: initialise at the end of __init__; weights are loaded by `pretrained`",
}
"""Methods of model components that are called differently here, or not at all."""

CONTRACTS = {
    "segmentors": "it has forward(images), loss(images, targets), predict(images), and outputs",
    "datasets": "__getitem__ returns a segkernel.sample.Sample; for files in two folders, FolderDataset needs no class",
    "transforms": "it is called with (sample, rng, *more), returns a Sample, and draws random numbers from rng only",
    "metrics": "it has update(prediction, target), merge(other) and compute()",
    "hooks": "mark its methods with segkernel.hookspecs.hookimpl, under the names that docs/hooks.md lists",
    "parts": "derive from the base class of its kind: segkernel.nn.PixelSampler for samplers",
}
"""What components of other groups look like; a person rewrites them."""


@dataclass(frozen=True)
class Found:
    """A registered class.

    Args:
        group: Entry-point group; empty when it is unknown.
        name: As configs name it.
        node: The class.
    """

    group: str
    name: str
    node: ast.ClassDef


def registered(source: Source, imports: Imports, folder: str, group: str = "") -> Iterator[Found]:
    """Yield the classes with ``@REGISTRY.register_module``, and remove these decorators.

    Args:
        source: The module.
        imports: Its imports, already rewritten.
        folder: Name of the folder of the file, which hints at the kind.
        group: Group of classes whose kind nothing says.
    """
    for node in source.tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        for decorator in node.decorator_list:
            call = decorator if isinstance(decorator, ast.Call) else None
            target = call.func if call else decorator
            if not (isinstance(target, ast.Attribute) and target.attr == "register_module"):
                continue
            registry = source.text(target.value).rpartition(".")[2]
            source.remove_lines(decorator.lineno, decorator.end_lineno or decorator.lineno)
            names = (
                [*(call.args if call else []), *(word.value for word in call.keywords if word.arg == "name")]
                if call
                else []
            )
            given = next(
                (one.value for one in names if isinstance(one, ast.Constant) and isinstance(one.value, str)), ""
            )
            known = imports.registries.get(registry, "") or _guess_group(source, node, folder)
            yield Found(known or group, given or node.name, node)


def _guess_group(source: Source, node: ast.ClassDef, folder: str) -> str:
    """Return the group of a class that is registered as a model of any kind, by its folder, bases and name."""
    folders = {"decode_heads": "heads", "backbones": "backbones", "necks": "necks", "losses": "losses"}
    words = " ".join([node.name, *map(source.text, node.bases)]).lower()
    endings = {"head": "heads", "loss": "losses", "neck": "necks", "fpn": "necks", "encoderdecoder": "segmentors"}
    guess = next((group for word, group in endings.items() if re.search(rf"{word}\b", words)), "")
    return guess or folders.get(folder, "")


class Component:
    """Rewrites one registered class.

    Args:
        source: The module; edits are added to it.
        imports: The imports of the module; names are added to it.
        found: The class.
    """

    def __init__(self, source: Source, imports: Imports, found: Found) -> None:
        self.source, self.imports, self.found, self.node = source, imports, found, found.node
        functions = {node.name: node for node in self.node.body if isinstance(node, ast.FunctionDef)}
        self.functions = functions
        self.constructor = functions.get("__init__")
        self.super_call = _super_call(self.constructor) if self.constructor else None
        self.attributes: list[str] = []

    def rewrite(self) -> None:
        """Add all edits."""
        self._bases()
        if self.constructor:
            self._annotate(self.constructor)
        if self.found.group == "heads":
            self._head()
        elif self.found.group == "backbones":
            self._backbone()
        elif self.found.group == "losses" and (node := self.functions.get("loss_name")):
            self._rename_function(node, "name")
        elif self.found.group == "":
            self.source.todo(self.node, "its kind is unknown, so it is no entry point: repeat with --kind")
        for name, text in METHODS.items():
            if (node := self.functions.get(name)) and self.found.group in ("heads", "backbones", "necks"):
                self.source.todo(node, f"{name}: {text}")
        if text := CONTRACTS.get(self.found.group, ""):
            self.source.todo(self.node, f"{self.node.name}: {text}; docs/plugins.md has an example")
        self._insert_attributes()

    def _bases(self) -> None:
        """Derive from the class of the group, where the former base class has no equivalent."""
        contract = INTERFACES.get(self.found.group, "")
        texts = [self.source.text(base) for base in self.node.bases]
        if self.found.group in ("heads", "segmentors", "") or not contract:
            return
        self.imports.want(MODEL, contract)
        plain = [
            base for base, text in zip(self.node.bases, texts) if text in ("nn.Module", "torch.nn.Module", "Module")
        ]
        if plain:
            self.source.replace(plain[0], contract)
        elif self.node.bases and all(text in self.imports.shims for text in texts):
            end = self.source.span(self.node.bases[-1])[1]
            self.source.edit(end, end, f", {contract}")

    def _annotate(self, constructor: ast.FunctionDef) -> None:
        """Give every argument an annotation, from its default or its name."""
        arguments = constructor.args
        positional = [*arguments.posonlyargs, *arguments.args][1:]
        defaults: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults)) + [*arguments.defaults]
        for argument, default in [*zip(positional, defaults), *zip(arguments.kwonlyargs, arguments.kw_defaults)]:
            if argument.annotation is None:
                end = self.source.span(argument)[1]
                text = self._annotation(argument.arg, default)
                spaced = " = " if default is not None else ""
                stop = self.source.span(default)[0] if default is not None else end
                self.source.edit(end, stop, f": {text}{spaced}")
            if default is not None and not _is_plain(default):
                self.source.todo(
                    constructor, f"the default of {argument.arg} cannot be written in a config: take a name or a dict"
                )
        if arguments.vararg:
            self.source.todo(constructor, f"name each argument in place of *{arguments.vararg.arg}")
        if arguments.kwarg and self.found.group != "heads":
            self.source.todo(constructor, f"name each argument in place of **{arguments.kwarg.arg}")

    def _annotation(self, name: str, default: ast.expr | None) -> str:
        value = default.value if isinstance(default, ast.Constant) else None
        if isinstance(value, bool | int | float | str):
            return type(value).__name__
        if name == "pretrained":
            return "str | None"
        if default is None and name in SIZES and self.found.group != "losses":
            return "int | list[int]" if name == "in_channels" else "list[int]" if name == "embed_dims" else "int"
        self.imports.want("typing", "Any")
        if isinstance(default, ast.Dict) or (
            isinstance(default, ast.Call) and self.source.text(default.func) == "dict"
        ):
            return "dict[str, Any]"
        if name.endswith("_cfg"):
            return "dict[str, Any] | None"
        if isinstance(default, ast.List | ast.Tuple) and default.elts:
            kinds = {type(one.value).__name__ for one in default.elts if isinstance(one, ast.Constant)}
            if len(kinds) == 1 and all(isinstance(one, ast.Constant) for one in default.elts):
                self.imports.want("collections.abc", "Sequence")
                return f"Sequence[{kinds.pop()}]"
        return "Any"

    def _head(self) -> None:
        """Type the forwarded arguments, rename methods, and give an example for the conformance kit."""
        bases = {self.source.text(base) for base in self.node.bases}
        fixed = {word.arg: word.value for word in self.super_call.keywords if word.arg} if self.super_call else {}
        constructor = self.constructor
        if self.super_call and "init_cfg" in fixed:
            self.source.remove_keyword(self.super_call, "init_cfg")
            fixed.pop("init_cfg")
        if constructor and constructor.args.kwarg:
            own = self._hoist(constructor, constructor.args.kwarg.arg)
            known = "MultiLevelHeadArguments" if "input_transform" in fixed else "DecodeHeadArguments"
            self.imports.want(NN, known)
            self.imports.want("typing_extensions", "Unpack")
            self._type_kwargs(constructor, f"Unpack[{known}]", own)
            if not bases & {"BaseDecodeHead", "BaseCascadeDecodeHead"}:
                others = ", ".join(sorted(bases))
                text = f"these are the arguments of every head: add those of {others}, or list them in fixed_arguments"
                self.source.todo(constructor, text)
        names = sorted(name for name in fixed if name in HEAD_ARGUMENTS)
        if names:
            self.attributes.append(f"fixed_arguments = frozenset({{{', '.join(map(_quoted, names))}}})")
        self._example(fixed)

    def _hoist(self, constructor: ast.FunctionDef, kwargs: str) -> dict[str, str]:
        """Replace ``kwargs["x"]``, for an x that base classes do not take, by an argument x; return {x: default}."""
        found: dict[str, str] = {}
        assigned: dict[str, list[ast.expr]] = {}
        for statement in constructor.body:
            if isinstance(statement, ast.Assign) and isinstance(target := statement.targets[0], ast.Name):
                assigned.setdefault(target.id, []).append(statement.value)
        for node in ast.walk(constructor):
            if not isinstance(node, ast.Subscript | ast.Call):
                continue
            key = default = None
            if isinstance(node, ast.Subscript) and self.source.text(node.value) == kwargs:
                key = node.slice
            elif isinstance(node, ast.Call) and self.source.text(node.func) in (f"{kwargs}.get", f"{kwargs}.pop"):
                key, *rest = node.args
                optional = self.source.text(node.func).endswith(".get")
                default = self.source.text(rest[0]) if rest else "None" if optional else ""
            if isinstance(key, ast.Constant) and isinstance(key.value, str) and key.value not in HEAD_ARGUMENTS:
                found.setdefault(key.value, default or "")
                if node in assigned.get(key.value, []):
                    self.source.remove_lines(node.lineno, node.end_lineno or node.lineno)  # x = kwargs["x"]
                else:
                    self.source.replace(node, key.value)
        return found

    def _type_kwargs(self, constructor: ast.FunctionDef, annotation: str, own: dict[str, str]) -> None:
        kwarg = constructor.args.kwarg
        assert kwarg is not None
        start, end = self.source.span(kwarg)
        start = self.source.data.rindex(b"**", 0, start)
        parts = [f"{name}: Any = {default}" if default else f"{name}: Any" for name, default in own.items()]
        if parts:
            self.imports.want("typing", "Any")
            parts = parts if constructor.args.kwonlyargs or constructor.args.vararg else ["*", *parts]
        self.source.edit(start, end, ", ".join([*parts, f"**{kwarg.arg}: {annotation}"]))

    def _example(self, fixed: dict[str, ast.expr]) -> None:
        """Add the example from which the kit and the tests build a head."""
        value = fixed.get("input_transform")
        several = isinstance(value, ast.Constant) and value.value in ("multiple_select", "resize_concat")
        inputs = (
            [f'"in_channels": {CHANNELS}', '"in_index": [0, 1, 2, 3]'] if several else [f'"in_channels": {CHANNEL}']
        )
        parts = [*inputs, f'"channels": {CHANNEL}', '"num_classes": 4']
        unknown = []
        for name in self._required():
            if name not in HEAD_ARGUMENTS:
                guess = self._guess(name)
                parts.append(f'"{name}": {guess}')
                unknown += [name] * (guess == "None")
        self.imports.want("typing", "ClassVar")
        text = f"conformance: ClassVar = {{{', '.join(parts)}}}"
        if len(text) > WIDTH - 4:
            text = "conformance: ClassVar = {\n" + "".join(f"    {part},\n" for part in parts) + "}"
        if unknown or several:
            what = f"give values to {', '.join(unknown)} in this example" if unknown else "check this example"
            text = f"# {MARK}: {what}, which is guessed: how many feature maps it takes, of which channels\n{text}"
        self.attributes.append(text)

    def _required(self) -> list[str]:
        if not self.constructor:
            return []
        arguments = self.constructor.args
        plain = arguments.args[1 : len(arguments.args) - len(arguments.defaults)]
        only = [one for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults) if default is None]
        keys = self._keys(arguments.kwarg.arg) if arguments.kwarg else []
        return list(dict.fromkeys([*(one.arg for one in [*plain, *only]), *keys]))

    def _keys(self, name: str) -> list[str]:
        """Return the keys that the constructor reads from a mapping, as ``name["key"]``."""
        nodes = (
            [node for node in ast.walk(self.constructor) if isinstance(node, ast.Subscript)] if self.constructor else []
        )
        slices = [node.slice for node in nodes if self.source.text(node.value) == name]
        keys = [part.value for part in slices if isinstance(part, ast.Constant) and isinstance(part.value, str)]
        return list(dict.fromkeys(keys))

    def _guess(self, name: str) -> str:
        """Return an example of a required argument, from its name, or from the keys that are read from it."""
        if keys := self._keys(name):
            return "{" + ", ".join(f'"{key}": {self._guess(key)}' for key in keys) + "}"
        if name.endswith("strides"):
            return str(STRIDES)
        if name.endswith("dims"):
            return str([CHANNEL] * 3)
        if name.endswith(("channels", "dim", "width")):
            return str(CHANNEL)
        return "None"

    def _backbone(self) -> None:
        """Return tuples, keep ``pretrained``, and declare the feature maps."""
        for name in ("forward", "forward_features"):
            if node := self.functions.get(name):
                self._return_tuples(node)
        constructor = self.constructor
        if not constructor or not self.super_call:
            return
        statement = next(node for node in constructor.body if self.super_call in ast.walk(node))
        names = [one.arg for one in constructor.args.args]
        if depths := next(
            (name for name in names if name in ("depths", "layers", "num_layers") and self._length(name)), ""
        ):
            self.imports.want("typing", "ClassVar")
            self.attributes.append(f'conformance: ClassVar = {{"{depths}": {[1] * self._length(depths)}}}')
        texts = [
            self.source.text(target)
            for node in ast.walk(constructor)
            if isinstance(node, ast.Assign)
            for target in node.targets
        ]
        lines = []
        if "pretrained" in names and "self.pretrained" not in texts:
            lines.append("self.pretrained = pretrained")
        widths = next(
            (name for name in names if name in ("embed_dims", "dims", "embed_dim", "widths") and self._length(name)), ""
        )
        if clash := [name for name in ("self.channels", "self.strides") if name in texts]:
            text = f"{' and '.join(clash)} must be those of the returned maps: rename what the class calls so"
            lines.append(f"# {MARK}: {text}")
        elif widths:
            strides = tuple(4 * 2**index for index in range(self._length(widths)))
            lines.append(f"# {MARK}: check that these are the channels and strides of the returned maps")
            lines.append(f"self.channels, self.strides = tuple({widths}), {strides}")
        else:
            lines.append(f"# {MARK}: set self.channels and self.strides, one number for each returned map")
        self.source.insert_after(statement, "\n".join(lines))

    def _length(self, name: str) -> int:
        """Return the number of elements in the default of an argument; 0 if it is no list."""
        assert self.constructor is not None
        arguments = self.constructor.args
        defaults = dict(zip([one.arg for one in arguments.args[::-1]], arguments.defaults[::-1]))
        value = defaults.get(name)
        return len(value.elts) if isinstance(value, ast.List | ast.Tuple) else 0

    def _return_tuples(self, function: ast.FunctionDef) -> None:
        lists = {
            target.id
            for node in ast.walk(function)
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.List)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(function):
            if isinstance(node, ast.Return) and isinstance(node.value, ast.Name) and node.value.id in lists:
                self.source.replace(node.value, f"tuple({node.value.id})")

    def _rename_function(self, node: ast.FunctionDef, name: str) -> None:
        start = self.source.starts[node.lineno - 1] + node.col_offset
        start = self.source.data.index(node.name.encode(), start)
        self.source.edit(start, start + len(node.name.encode()), name)

    def _insert_attributes(self) -> None:
        """Insert class attributes after the docstring, which is added if there is none."""
        first, text = self.node.body[0], "\n".join(self.attributes)
        if ast.get_docstring(self.node) is None:
            text = f'"""{self.node.name}."""\n' + (f"\n{text}\n" if text else "")
            self.source.insert_before(first, f"{text}\n")
        elif text:
            adjacent = len(self.node.body) > 1 and first_line(self.node.body[1]) == (first.end_lineno or 0) + 1
            self.source.insert_after(first, f"\n{text}" + "\n\n" * adjacent)


def _super_call(constructor: ast.FunctionDef) -> ast.Call | None:
    """Return the call of the base class's constructor."""
    for node in ast.walk(constructor):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "__init__":
            value = node.func.value
            if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "super":
                return node
    return None


def _is_plain(node: ast.expr) -> bool:
    """Whether a default can be written in YAML."""
    if isinstance(node, ast.List | ast.Tuple):
        return all(map(_is_plain, node.elts))
    if isinstance(node, ast.Dict):
        return all(map(_is_plain, node.values))
    if isinstance(node, ast.Call):
        return (
            isinstance(node.func, ast.Name)
            and node.func.id == "dict"
            and all(_is_plain(w.value) for w in node.keywords)
        )
    if isinstance(node, ast.UnaryOp):
        return _is_plain(node.operand)
    return isinstance(node, ast.Constant)


def _quoted(text: str | None) -> str:
    return f'"{text}"'
