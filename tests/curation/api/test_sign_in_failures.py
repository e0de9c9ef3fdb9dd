"""Refused sign-ins are recorded, at a bounded rate."""

from __future__ import annotations

import sqlalchemy as sa

from curation.access.sign_in_failures import MAX_PER_MINUTE, SignInFailures
from curation.db.tables import events


def recorded(database) -> list[dict]:
    query = sa.select(events).where(events.c.kind == "sign-in refused").order_by(events.c.id)
    with database.transaction() as tx:
        return [dict(row) for row in tx.execute(query).mappings()]


def test_the_rate_is_bounded_and_the_omitted_ones_are_counted(database):
    now = [0.0]
    failures = SignInFailures(clock=lambda: now[0])
    for number in range(MAX_PER_MINUTE + 5):
        failures.record(database, f"10.0.0.{number}", "wrong token")
    assert len(recorded(database)) == MAX_PER_MINUTE
    now[0] = 60.0
    for _ in range(2):
        failures.record(database, "10.0.0.1", "wrong token", name="ann")
    *_, first, second = recorded(database)
    assert first["data"] == {"reason": "wrong token", "name": "ann", "omitted": 5}
    assert second["data"] == {"reason": "wrong token", "name": "ann"}
    assert second["subject"] == "address 10.0.0.1"


def test_sign_ins_and_sign_outs_are_in_the_event_log(signed_in, client, database):
    for _ in range(2):
        assert client.post("/api/session", json={"token": "wrong"}).status_code == 401
    assert [row["subject"] for row in recorded(database)] == ["address testclient"] * 2
    visitor = signed_in(name="ann")
    assert visitor.delete("/api/session").status_code == 204
    with database.transaction() as tx:
        query = sa.select(events.c.actor, events.c.kind).where(events.c.actor == "ann")
        assert [tuple(row) for row in tx.execute(query.order_by(events.c.id))] == [
            ("ann", "signed in"),
            ("ann", "signed out"),
        ]
