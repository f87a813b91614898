"""A JSON schema of configs, for editors: the fixed sections, and what the installed plugins offer.

Point an editor's YAML support at the output of ``seg-kernel schema``.
"""

from __future__ import annotations

import json
import logging
import math
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import Any, Literal, get_args, get_origin

import click
from annotated_types import Ge, GroupedMetadata, Gt, Le, Lt, MaxLen, MinLen, MultipleOf

from segkernel.catalog import GROUPS, Catalog, Row
from segkernel.config.sections import Sections
from segkernel.errors import ComponentError
from segkernel.interfaces.spec import Spec
from segkernel.signature import LISTS, MAPPINGS, UNIONS, Parameter, choices_of, group_of, is_record, signature, unwrap
from segplug_heads.reference.docstrings import argument_text

log = logging.getLogger(__name__)

_PLAIN = {bool: "boolean", int: "integer", float: "number", str: "string", types.NoneType: "null", PurePath: "string"}
_REFERENCE = {"type": "string", "pattern": r"\$\{"}
_KEYWORDS = {
    Gt: ("gt", "exclusiveMinimum"),
    Ge: ("ge", "minimum"),
    Lt: ("lt", "exclusiveMaximum"),
    Le: ("le", "maximum"),
    MinLen: ("min_length", "minItems"),
    MaxLen: ("max_length", "maxItems"),
    MultipleOf: ("multiple_of", "multipleOf"),
}
"""By constraint: its attribute, and what the bound is called in a schema."""
_DIRECTIVES = {r"\+$": {}, "^~": {"type": "null"}, "^_(delete|base|meta)_$": {}}


@click.command("schema")
@click.option("--full", is_flag=True, help="Import every component and list its arguments.")
def command(full: bool) -> None:
    """Print a JSON schema of configs for editors, with the names that the installed plugins offer.

    \b
    Examples:
      seg-kernel schema > segkernel.json
      seg-kernel schema --full > segkernel.json
    """
    if full:
        log.info("importing every component")
    click.echo(json.dumps(config_schema(Catalog.discover(), full), indent=1, default=str))


def config_schema(catalog: Catalog, full: bool = False) -> dict[str, Any]:
    """Return the schema.

    Args:
        catalog: Its components are allowed after ``type:``.
        full: Also describe the arguments of every component, which imports them all.
    """
    groups = [
        group for group in GROUPS if group not in ("default_hooks", "zoo", "config_sources", "former_names", "commands")
    ]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "seg-kernel config",
        **schema_of(Sections),
        "$defs": {group: _group(group, catalog, full) for group in groups} | {"reference": _REFERENCE},
    }


def schema_of(annotation: Any) -> dict[str, Any]:
    """Return the schema of the values that an annotation means."""
    kind, constraints = unwrap(annotation)
    if limits := _limits(constraints):
        return schema_of(kind) | limits
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in UNIONS:
        return {"anyOf": [schema_of(arm) for arm in arguments]}
    if origin is Literal or choices_of(kind):
        return {"enum": choices_of(kind)}
    if group := group_of(arguments[0] if origin is Spec else kind):
        return {"$ref": f"#/$defs/{group}"}
    if origin is tuple and arguments[-1:] != (Ellipsis,):
        items = [schema_of(argument) for argument in arguments]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    if (origin or kind) in LISTS:
        return {"type": "array", "items": schema_of(arguments[0]) if arguments else {}}
    if (origin or kind) in MAPPINGS:
        return {"type": "object", "additionalProperties": schema_of(arguments[1]) if arguments else {}}
    if is_record(kind):
        return _object({name: _parameter(parameter) for name, parameter in signature(kind).items()})
    names = [name for base, name in _PLAIN.items() if isinstance(kind, type) and issubclass(kind, base)]
    return {"type": names[0]} if names else {}


def _limits(constraints: Iterable[Any]) -> dict[str, Any]:
    """Return the schema keywords of bounds and lengths; infinite bounds are omitted."""
    flat = [part for each in constraints for part in (each if isinstance(each, GroupedMetadata) else [each])]
    known = [(part, *_KEYWORDS[type(part)]) for part in flat if type(part) in _KEYWORDS]
    bounds = {keyword: getattr(part, attribute) for part, attribute, keyword in known}
    return {keyword: bound for keyword, bound in bounds.items() if abs(bound) != math.inf}


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a mapping with these keys, which may also hold references and directives."""
    allowed = {name: {"anyOf": [kind, {"$ref": "#/$defs/reference"}]} for name, kind in properties.items()}
    closed = {"patternProperties": _DIRECTIVES, "additionalProperties": False}
    return {"type": "object", "properties": allowed, **closed}


def _parameter(parameter: Parameter) -> dict[str, Any]:
    text = argument_text(parameter)
    return {**schema_of(parameter.annotation), **({"description": text} if text else {})}


def _group(group: str, catalog: Catalog, full: bool) -> dict[str, Any]:
    """Return the schema of any component of a group; ``type`` may be missing, as a base may have it."""
    rows = catalog.rows_of(group)
    elsewhere = "" if group == "optimizers" else "[/:]"  # torch's; dist/Name, module:Name
    names = {"anyOf": [{"enum": catalog.names(group)}, {"type": "string", "pattern": elsewhere}]}
    any_of_them = {"type": ["object", "null"], "properties": {"type": names}}
    return any_of_them | ({"allOf": list(_arguments(rows, catalog))} if full else {})


def _arguments(rows: Iterable[Row], catalog: Catalog) -> Iterator[dict[str, Any]]:
    """Yield, for each component, the arguments that follow from its ``type``."""
    for row in rows:
        try:
            arguments = {name: _parameter(parameter) for name, parameter in signature(catalog.load_row(row)).items()}
        except ComponentError as error:
            log.warning("%s", error)
            continue
        chosen = {"properties": {"type": {"enum": [row.name, row.qualified]}}, "required": ["type"]}
        yield {"if": chosen, "then": _object({"type": {"type": "string"}, **arguments})}
