"""No text in a request makes the server fail: every string of every operation is tried with hostile values."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from curation.domain import Role
from tests.curation.api.conftest import CHANGE

TEXTS = {
    "nul": "a\0b",
    "half a surrogate pair": "a\ud800b",
    "controls": "a\x01\x1b[2J\x7f\u202eb",
    "long": "x" * 20_000,
    "not a character": "\uffff\U0010ffff",
    "quotes": "' or 1=1; --\"%_\\\\",
    "empty": "",
}
UNSTORABLE = {"nul", "half a surrogate pair"}


def operations(app) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in app.openapi()["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def resolved(app, schema: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    return app.openapi()["components"]["schemas"][name] if name else schema


def example(app, schema: dict[str, Any]) -> Any:
    """Return a valid value of a schema."""
    schema = resolved(app, schema)
    if "anyOf" in schema:
        return example(app, schema["anyOf"][0])
    if "enum" in schema or "const" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    if schema["type"] == "object":
        return {
            name: example(app, schema["properties"][name]) for name in schema.get("required", [])
        }
    if schema["type"] == "array":
        return [example(app, schema["items"])] * schema.get("minItems", 0)
    if schema.get("format") == "uuid":
        return str(uuid.UUID(int=1))
    return {"string": "a" * 64, "integer": schema.get("minimum", 1), "boolean": False}[
        schema["type"]
    ]


def strings(app, schema: dict[str, Any], at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of the strings of a body, of any format."""
    schema = resolved(app, schema)
    for one in (resolved(app, inner) for inner in schema.get("anyOf", [schema])):
        if one.get("type") == "string" or "enum" in one:
            yield at
        for name, inner in one.get("properties", {}).items():
            yield from strings(app, inner, (*at, name))
        if one.get("type") == "array":
            yield from strings(app, one["items"], (*at, 0))


def put(app, schema: dict[str, Any], body: Any, at: tuple[Any, ...], value: Any) -> None:
    """Set the value at a path of a body, creating missing parts."""
    schema = resolved(app, schema)
    if "anyOf" in schema:  # what may be null
        schema = resolved(app, schema["anyOf"][0])
    step, rest = at[0], at[1:]
    inner = schema["items"] if step == 0 else schema["properties"][step]
    if step == 0 and not body:
        body.append(example(app, inner))
    elif step != 0 and step not in body:
        body[step] = [] if resolved(app, inner).get("type") == "array" else example(app, inner)
    if rest:
        put(app, inner, body[step], rest, value)
    else:
        body[step] = value


def addresses(app, path: str, operation: dict[str, Any], text: str) -> Iterator[str]:
    """Yield the addresses of an operation that are valid but for one path word or query parameter, which is the text."""
    parameters = [one for one in operation.get("parameters", []) if one["in"] in {"path", "query"}]
    valid = {one["name"]: str(example(app, one["schema"])) for one in parameters if one["required"]}
    for one in parameters:
        words = valid | {one["name"]: quote(text.encode("utf-8", "surrogatepass"), safe="")}
        queries = [f"{name}={word}" for name, word in words.items() if f"{{{name}}}" not in path]
        yield path.format(**words) + ("?" + "&".join(queries) if queries else "")
    if not parameters:
        yield path


def tries(app, text: str) -> Iterator[tuple[str, str, bytes | None]]:
    """Yield requests that carry this text: one for each path word, query parameter and string of a body."""
    for method, path, operation in operations(app):
        schema = (
            operation.get("requestBody", {})
            .get("content", {})
            .get("application/json", {})
            .get("schema")
        )
        valid = None if schema is None else json.dumps(example(app, schema)).encode()
        for address in addresses(app, path, operation, text):
            yield method, address, valid
        if schema is None:
            continue
        yield method, path, json.dumps(text).encode()
        yield method, path, json.dumps({text: 1}).encode()
        for at in strings(app, schema):
            body = example(app, schema)
            put(app, schema, body, at, text)
            yield method, path, json.dumps(body).encode()


@pytest.mark.parametrize("name", TEXTS)
def test_no_text_is_a_server_error(app, signed_in, name):
    visitor = signed_in(Role.admin)
    tried = 0
    for method, address, body in tries(app, TEXTS[name]):
        if address.startswith("/api/session") and method == "DELETE":
            continue  # it would end the session that the others need
        headers = CHANGE | ({} if body is None else {"content-type": "application/json"})
        answer = visitor.request(method, address, headers=headers, content=body)
        assert answer.status_code < 500, (method, address, body)
        if answer.status_code >= 400:
            assert set(answer.json()["error"]) == {"message", "hint"}
            assert len(answer.content) < 10_000, "what is quoted is cut"
            assert not {"\0", "\x1b", "\u202e"} & set(answer.json()["error"]["message"])
        tried += 1
    assert tried > 40


@pytest.mark.parametrize("name", ["nul", "controls", "long"])
def test_a_hostile_header_is_no_server_error(signed_in, name):
    visitor = signed_in(Role.admin)
    value = TEXTS[name].replace("\u202e", "\xff").encode("latin-1")
    for header in (
        b"x-layerloop-desk",
        b"if-none-match",
        b"accept",
        b"x-forwarded-for",
        b"content-type",
    ):
        for method, path in (
            ("POST", "/api/labeling/webhook"),
            ("GET", f"/api/layers/{'a' * 64}.webp?until=1&sign=x"),
        ):
            assert visitor.request(method, path, headers=[(header, value)]).status_code < 500


@pytest.mark.parametrize("name", sorted(UNSTORABLE))
@pytest.mark.parametrize("several", [False, True])
def test_a_comment_that_cannot_be_stored_is_refused_by_name(signed_in, round_id, name, several):
    visitor = signed_in()
    [item] = visitor.post("/api/review/claims", json={"count": 1}).json()["candidates"]
    body = {
        "candidate": item["id"],
        "verdict": "accept",
        "key": str(uuid.uuid4()),
        "comment": TEXTS[name],
    }
    path, sent = ("/decisions/batch", {"decisions": [body]}) if several else ("/decisions", body)
    headers = {"content-type": "application/json"}
    answer = visitor.post(f"/api/review{path}", content=json.dumps(sent), headers=headers)
    assert answer.status_code == 422
    assert "comment" in answer.json()["error"]["message"]
    body["comment"] = "tab\tand \x01 may stay"
    assert visitor.post("/api/review/decisions", json=body).status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/review/claims", {"count": True}),
        ("/api/review/claims", {"count": "5"}),
        ("/api/review/claims", {"round": True}),
        ("/api/review/claims", {"round": 1.5}),
        ("/api/review/undo", {"decision": True, "key": str(uuid.UUID(int=1))}),
        ("/api/session", {"token": "x", "switch": 1}),
    ],
)
def test_only_whole_numbers_are_whole_numbers(signed_in, path, body):
    assert signed_in().post(path, json=body).status_code == 422


@pytest.mark.parametrize("value", ["true", "5.0", "+5", "1_0", " 5", "\uff15", "1e1", ""])
def test_only_digits_are_a_number_in_a_query(signed_in, value):
    answer = signed_in().get("/api/review/latest", params={"count": value})
    assert answer.status_code == 422
