"""The reference of the HTTP API, from the golden OpenAPI description that a test compares."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from markdown import code, page, prose, sentence, table

OPENAPI = Path(__file__).resolve().parents[2] / "tests" / "golden" / "openapi.json"
INTRO = """
The API serves JSON under `/api`; a running instance serves the same description as
`/api/openapi.json`. People sign in with a one-time token (`POST /api/session`), which sets a
session cookie; programs send an API token (`Authorization: Bearer TOKEN`). An operation needs the
role in the table or a higher one, or a token with the scope. Requests that change something need
the header `X-Layerloop: 1`. Errors have the form of `ErrorResponse`. A test runs schemathesis
against this description.
"""


def http_page() -> str:
    """Return the page."""
    api = json.loads(OPENAPI.read_text("utf-8"))
    operations = [
        (path, method.upper(), operation)
        for path, methods in api["paths"].items()
        for method, operation in methods.items()
        if isinstance(operation, dict)
    ]
    overview = table(
        ["method", "path", "role", "scope", "purpose"],
        (
            [
                method,
                code(path),
                one.get("x-required-role", ""),
                code(one["x-required-scope"]) if "x-required-scope" in one else "",
                sentence(one.get("summary", "")),
            ]
            for path, method, one in operations
        ),
    )
    parts = [_operation(path, method, one) for path, method, one in operations]
    schemas = api.get("components", {}).get("schemas", {})
    errors = sorted(_errors(one for _, _, one in operations).items())
    table_of_errors = table(
        ["status", "meaning"], ([status, sentence(meaning)] for status, meaning in errors)
    )
    return page(
        "HTTP API", INTRO, overview, "## Errors", table_of_errors, "## Operations", *parts,
        "## Schemas",
        *(_schema(name, schema) for name, schema in sorted(schemas.items())),
    )  # fmt: skip


def _errors(operations: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Return the statuses of errors with their meanings."""
    return {
        status: answer.get("description", "")
        for operation in operations
        for status, answer in operation.get("responses", {}).items()
        if status >= "400"
    }


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    parts = [
        f"### {method} {path}",
        prose(operation.get("description") or operation.get("summary")),
    ]
    rows = (
        [
            code(one["name"]),
            one["in"],
            _type(one.get("schema", {})),
            sentence(one.get("description", "")),
        ]
        for one in operation.get("parameters", ())
    )
    parts.append(table(["parameter", "in", "type", "meaning"], rows))
    body = operation.get("requestBody", {}).get("content", {})
    if body:
        parts.append(
            "Request: "
            + ", ".join(
                f"{_type(one.get('schema', {}))} as {code(kind)}" for kind, one in body.items()
            )
        )
    answers = operation.get("responses", {})
    for status in sorted(set(answers) - set(_errors([operation]))):
        kinds = [
            _type(one.get("schema", {})) for one in answers[status].get("content", {}).values()
        ]
        meaning = answers[status].get("description", "").replace("Successful Response", "")
        parts.append(
            ": ".join(filter(None, [f"Answer {status}", ", ".join(filter(None, kinds)), meaning]))
            + "."
        )
    parts.append("Errors: " + ", ".join(sorted(_errors([operation]))) + ".")
    return "\n\n".join(part for part in parts if part)


def _schema(name: str, schema: dict[str, Any]) -> str:
    required = set(schema.get("required", ()))
    rows = (
        [
            code(field),
            _type(one),
            "yes" if field in required else "no",
            sentence(one.get("description", "")),
        ]
        for field, one in schema.get("properties", {}).items()
    )
    parts = [f"### {name}", prose(schema.get("description"))]
    if "enum" in schema:
        parts.append("One of " + ", ".join(code(one) for one in schema["enum"]) + ".")
    parts.append(table(["field", "type", "required", "meaning"], rows))
    return "\n\n".join(part for part in parts if part)


def _type(schema: dict[str, Any]) -> str:
    """Return a schema's type in one short text, schemas of the page as links."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{re.sub(r'[^a-z0-9_-]', '', name.lower())})"
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "allOf" in schema:
        return " and ".join(_type(one) for one in schema["allOf"])
    if "const" in schema:
        return code(json.dumps(schema["const"]))
    if "enum" in schema:
        return " or ".join(code(json.dumps(one)) for one in schema["enum"])
    kind = schema.get("type", "any")
    if kind == "array":
        return "list of " + _type(schema.get("items", {}))
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return "map to " + _type(schema["additionalProperties"])
    return str(kind)
