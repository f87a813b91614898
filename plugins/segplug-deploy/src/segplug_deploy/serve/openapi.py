"""The OpenAPI document of the server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from segplug_deploy.serve.encode import FORMATS
from segplug_deploy.serve.refusal import Limits

KINDS = ("png", *FORMATS)
ERRORS = {
    404: "No model has this name.",
    408: "The image did not arrive in time.",
    413: "Too many bytes or pixels.",
    415: "Not an image in a known format.",
    422: "A damaged image, or a wrong parameter.",
    429: "The queue of the model is full.",
    500: "An error of the server, which its log describes.",
    503: "The answer took too long, or the server is shutting down.",
}


def document(version: str, models: Sequence[str], limits: Limits) -> dict[str, Any]:
    """Return the description of a server.

    Args:
        version: Of segplug-deploy.
        models: Names of its models.
        limits: What it accepts.
    """
    return {
        "openapi": "3.1.0",
        "info": {"title": "seg-kernel serve", "version": version, "summary": "Semantic segmentation of images."},
        "paths": {
            "/models": {"get": _get("Models with their classes and colours.", _json(_ref("Models")))},
            "/models/{name}/predict": {"post": _predict(models, limits)},
            "/health": {"get": _get("Whether the process answers.", _json(_ref("Status")))},
            "/ready": {"get": _ready()},
            "/metrics": {"get": _get("Metrics in Prometheus' text format.", {"text/plain": {}})},
            "/openapi.json": {"get": _get("This document.", _json({"type": "object"}))},
        },
        "components": {"schemas": _schemas()},
    }


def _predict(models: Sequence[str], limits: Limits) -> dict[str, Any]:
    image = {"type": "string", "contentMediaType": "application/octet-stream", "maxLength": limits.bytes}
    form = {"type": "object", "properties": {"image": image, "second": image}, "required": ["image"]}
    return {
        "summary": "Label each pixel of an image.",
        "description": f"At most {limits.megabytes:g} MB and {limits.megapixels:g} megapixels.",
        "operationId": "predict",
        "parameters": [
            {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "enum": [*models]}},
            {
                "name": "format",
                "in": "query",
                "description": "png: class ids with a palette, or values as thousandths in 16 bits; json: shares of "
                "the classes, the range of values, or the objects; rle: with COCO's run lengths; polygons: with "
                "GeoJSON in pixels. A multilabel model has no png, one of values no rle and no polygons; in the png of "
                "objects 255 is none, and its text chunk, objects, is the list of format=json.",
                "schema": {"type": "string", "enum": [*KINDS], "default": "png"},
            },
        ],
        "requestBody": {
            "required": True,
            "description": "A PNG, JPEG, WebP, BMP or TIFF; two for a model that compares two images, as a form.",
            "content": {"image/*": {"schema": image}, "multipart/form-data": {"schema": form}},
        },
        "responses": {
            "200": {
                "description": "The classes of the pixels, at the size of the image.",
                "content": {"image/png": {}, **_json({"oneOf": [_ref("Labels"), _ref("Values"), _ref("Objects")]})},
            },
            **{str(status): _error(text) for status, text in ERRORS.items()},
        },
    }


def _ready() -> dict[str, Any]:
    described = _get("Whether requests are accepted.", _json(_ref("Status")))
    return {**described, "responses": {**described["responses"], "503": _error("The server is shutting down.")}}


def _get(summary: str, content: dict[str, Any]) -> dict[str, Any]:
    return {"summary": summary, "responses": {"200": {"description": "OK", "content": content}}}


def _error(text: str) -> dict[str, Any]:
    return {"description": text, "content": _json(_ref("Error"))}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties]}


def _schemas() -> dict[str, Any]:
    text, whole, number = {"type": "string"}, {"type": "integer"}, {"type": "number"}
    color = {"type": "array", "items": whole, "minItems": 3, "maxItems": 3, "description": "RGB, 0 to 255."}
    named = {"id": whole, "name": text, "color": color}
    found = _object(**named, pixels=whole, share={**number, "description": "0 to 1."})
    found["properties"]["rle"] = _object(size={"type": "array", "items": whole}, counts=text)
    found["properties"]["geometry"] = _object(type=text, coordinates={"type": "array"})
    numbers = {"type": "array", "items": number}
    single = _object(**named, score=number, box=numbers)
    single["properties"] |= {name: found["properties"][name] for name in ("rle", "geometry")}
    single["properties"]["keypoints"] = {"type": "array", "items": numbers}
    model = _object(
        name=text,
        task={"enum": ["multiclass", "binary", "multilabel", "values", "objects"]},
        images={"type": "integer", "enum": [1, 2], "description": "Number of images that the model compares."},
        classes={"type": "array", "items": _object(**named)},
    )
    model["properties"]["shown_score"] = {**number, "description": "Score from which pictures show an object."}
    pairs = {"type": "array", "items": {"type": "array", "items": whole}}
    model["properties"]["skeleton"] = {**pairs, "description": "Keypoints that pictures connect."}
    return {
        "Status": _object(status=text),
        "Error": _object(error=_object(status=whole, message=text)),
        "Models": _object(models={"type": "array", "items": _ref("Model")}),
        "Model": model,
        "Labels": _object(model=text, height=whole, width=whole, classes={"type": "array", "items": found}),
        "Objects": _object(model=text, height=whole, width=whole, objects={"type": "array", "items": single}),
        "Values": _object(model=text, height=whole, width=whole, min=number, mean=number, max=number),
    }
