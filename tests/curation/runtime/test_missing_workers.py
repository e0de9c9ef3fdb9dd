"""The doctor and the API report workers that were not started and a port that is taken."""

from __future__ import annotations

import socket

import pytest
import sqlalchemy as sa

from curation.api.server import open_socket
from curation.db.tables import candidates, leases, rounds
from curation.domain import CandidateState
from curation.errors import Refused
from curation.reporting import round_report
from curation.runtime import doctor
from curation.runtime.context import open_context
from curation.settings import Settings
from tests.support.factories import make_candidates, make_round


def test_work_that_no_worker_takes_is_reported(settings: Settings) -> None:
    with open_context(settings) as context:
        assert doctor._work(context).ok
        with context.database.transaction() as tx:
            round_id = make_round(tx)
            ids = make_candidates(tx, context.store, round_id, 3, CandidateState.requested)
        assert doctor._work(context).ok  # just asked for
        with context.database.transaction() as tx:
            tx.execute(
                sa.update(candidates).values(changed_at=sa.text("now() - interval '5 minutes'"))
            )
        found = doctor._work(context)
        assert (found.ok, found.message) == (False, "no worker has taken for over 60 s: 3 drawings")
        assert "layerloop worker" in found.hint
        with context.database.transaction() as tx:
            report = round_report.round_report(tx, round_id)
            other = round_report.round_report(tx, make_round(tx))
        assert (report["waiting_work"], other["waiting_work"]) == ({"drawings": 3}, {})
        assert (
            "no worker has taken for over 60 s: 3 drawings; start 'layerloop worker"
            in round_report.as_text(report)
        )
        assert "no worker" not in round_report.as_text(other)
        with context.database.transaction() as tx:
            until = sa.text("now() + interval '1 minute'")
            row = {
                "subject": ids[0],
                "purpose": "generate",
                "holder": "a worker",
                "expires_at": until,
            }
            tx.execute(sa.insert(leases).values(row))
        assert doctor._work(context).ok  # somebody draws
        with context.database.transaction() as tx:
            tx.execute(sa.delete(leases))
            tx.execute(sa.update(rounds).values(state="paused"))
        assert doctor._work(context).ok  # a paused round waits for people


def test_a_port_that_is_taken_is_refused_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Refused, match=f"127.0.0.1:{port}") as refused:
            open_socket("127.0.0.1", port)
        assert "--port" in refused.value.hint
    with open_socket("127.0.0.1", port) as free:
        assert free.getsockname()[1] == port
