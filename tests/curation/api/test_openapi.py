"""The API's description is a golden file: whoever changes the contract changes it knowingly."""

from __future__ import annotations

import json
from pathlib import Path

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "openapi.json"


def test_the_contract_has_not_changed(app):
    """To accept a change on purpose: delete tests/golden/openapi.json and run this test once."""
    described = app.openapi()
    described["components"]["securitySchemes"]["session"]["name"] = (
        "layerloop_session_*"  # the instance's own
    )
    now = (
        json.dumps(
            described | {"info": {"title": "Layerloop", "version": "*"}}, indent=1, sort_keys=True
        )
        + "\n"
    )
    if not GOLDEN.exists():
        GOLDEN.write_text(now)
    assert json.loads(now) == json.loads(GOLDEN.read_text())


def test_everything_is_described(app):
    described = app.openapi()
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            assert operation.get("description"), f"{method} {path}"
    for name, schema in described["components"]["schemas"].items():
        if name not in {"HTTPValidationError", "ValidationError"}:
            assert schema.get("description"), name


def test_it_is_served(client, app):
    assert client.get("/api/openapi.json").json() == json.loads(json.dumps(app.openapi()))
    assert client.get("/docs").status_code == 404
