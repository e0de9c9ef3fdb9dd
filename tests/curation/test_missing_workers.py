"""Doctor and the API speak of what people forget: workers that were not started, a port that is taken."""

from __future__ import annotations

import socket

import pytest
import sqlalchemy as sa

from curation import doctor
from curation.api.server import open_socket
from curation.domain import CandidateState
from curation.errors import Refused
from curation.house import open_house
from curation.review import report
from curation.settings import Settings
from curation.tables import candidates, leases, rounds
from tests.making import make_candidates, make_round


def test_work_that_no_worker_takes_is_a_finding(settings: Settings) -> None:
    with open_house(settings) as house:
        assert doctor._work(house).well
        with house.database.transaction() as tx:
            number = make_round(tx)
            ids = make_candidates(tx, house.store, number, 3, CandidateState.requested)
        assert doctor._work(house).well  # just asked for
        with house.database.transaction() as tx:
            tx.execute(sa.update(candidates).values(changed_at=sa.text("now() - interval '5 minutes'")))
        found = doctor._work(house)
        assert (found.well, found.told) == (False, "for over 60 s no worker has taken: 3 drawings")
        assert "layerloop worker" in found.hint
        with house.database.transaction() as tx:
            told = report.round_report(tx, number)
            other = report.round_report(tx, make_round(tx))
        assert (told["untaken"], other["untaken"]) == ({"drawings": 3}, {})
        assert "no worker has taken: 3 drawings; start 'layerloop worker" in report.as_text(told)
        assert "no worker" not in report.as_text(other)
        with house.database.transaction() as tx:
            until = sa.text("now() + interval '1 minute'")
            row = {"subject": ids[0], "purpose": "draw", "holder": "a worker", "expires_at": until}
            tx.execute(sa.insert(leases).values(row))
        assert doctor._work(house).well  # somebody draws
        with house.database.transaction() as tx:
            tx.execute(sa.delete(leases))
            tx.execute(sa.update(rounds).values(state="paused"))
        assert doctor._work(house).well  # a paused round waits for people


def test_a_port_that_is_taken_is_refused_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Refused, match=f"127.0.0.1:{port}") as refused:
            open_socket("127.0.0.1", port)
        assert "--port" in refused.value.hint
    with open_socket("127.0.0.1", port) as free:
        assert free.getsockname()[1] == port
