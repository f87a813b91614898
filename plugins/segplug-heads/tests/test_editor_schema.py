"""The JSON schema of configs, for editors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import pytest
from annotated_types import MinLen
from click.testing import CliRunner

from segkernel.annotations import NonNegativeInt, OddInt, Positive, PositiveInt, Probability
from segkernel.catalog import Catalog, Row
from segkernel.config.sections import Sections, Seed
from segkernel.signature import signature
from segplug_heads.editor_schema import command, config_schema, schema_of
from segplug_heads.reference.docstrings import documented_arguments


@pytest.fixture
def catalog() -> Catalog:
    """A catalogue of one engine, and of a hook that cannot be imported."""
    rows = [("engines", "LocalEngine", "segkernel.engine:LocalEngine"), ("hooks", "Broken", "no_such_module:Hook")]
    return Catalog(tuple(Row(group, name, "seg-kernel", "0.1", value) for group, name, value in rows))


def test_the_schema_offers_the_installed_names(catalog: Catalog) -> None:
    schema = config_schema(catalog)
    assert set(schema["properties"]) == set(signature(Sections))
    assert schema["$defs"]["engines"]["properties"]["type"]["anyOf"][0] == {"enum": ["LocalEngine"]}
    assert {"train", "val", "workers"} <= set(schema["properties"]["data"]["anyOf"][0]["anyOf"][0]["properties"])
    assert schema["properties"]["engine"]["anyOf"][0]["anyOf"][0] == {"$ref": "#/$defs/engines"}
    json.dumps(schema)


def test_the_full_schema_lists_arguments_and_skips_what_cannot_be_imported(catalog: Catalog) -> None:
    definitions = config_schema(catalog, full=True)["$defs"]
    (engine,) = definitions["engines"]["allOf"]
    assert engine["if"]["properties"]["type"] == {"enum": ["LocalEngine", "seg-kernel/LocalEngine"]}
    assert engine["then"]["properties"]["device"]["anyOf"][0]["type"] == "string"
    assert definitions["hooks"]["allOf"] == []


def test_the_command_prints_json() -> None:
    assert "model" in json.loads(CliRunner().invoke(command).stdout)["properties"]


def test_documentation_of_arguments_spans_lines_and_allows_types() -> None:
    text = """A part.

    Args:
        size: Its size in pixels,
            which is a number.
        name, title (str): What it is called.

    Raises:
        ValueError: Never.
    """
    called = "What it is called."
    assert documented_arguments(text) == {
        "size": "Its size in pixels, which is a number.",
        "name": called,
        "title": called,
    }


def test_sections_and_arguments_are_described(catalog: Catalog) -> None:
    data = config_schema(catalog)["properties"]["data"]["anyOf"][0]
    assert data["anyOf"][0]["properties"]["eval_batch"]["anyOf"][0]["description"].startswith("Images per forward pass")
    assert data["description"] == "Data sets and transforms."


@pytest.mark.parametrize(
    ("annotation", "schema"),
    [
        (PositiveInt, {"type": "integer", "minimum": 1}),
        (Probability, {"type": "number", "minimum": 0, "maximum": 1}),
        (Positive, {"type": "number", "exclusiveMinimum": 0}),
        (OddInt, {"type": "integer", "minimum": 1}),
        (Seed, {"type": "integer", "minimum": 0, "exclusiveMaximum": 2**63}),
        (Annotated[Sequence[str], MinLen(2)], {"type": "array", "items": {"type": "string"}, "minItems": 2}),
        (NonNegativeInt | None, {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "null"}]}),
    ],
    ids=range(7),
)
def test_ranges_are_in_the_schema(annotation: Any, schema: dict[str, Any]) -> None:
    assert schema_of(annotation) == schema
