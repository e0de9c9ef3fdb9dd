"""Reports: computed at each request if that is quick, otherwise stored by a job with their time."""

from __future__ import annotations

import sqlalchemy as sa

from curation.db.kept_reports import store_report
from curation.db.tables import kept_reports
from curation.domain import JobName
from curation.jobs import reconcile, refresh_reports
from curation.quality import agreement
from curation.reporting import kept, reviewer_stats
from curation.review.reviewers import add_reviewer
from curation.runtime.context import open_context
from curation.settings import Settings
from tests.support.decision_history import PastDecision, make_history


def test_a_large_report_is_stored_and_shown_with_its_time(settings: Settings, monkeypatch):
    monkeypatch.setattr(kept, "LIVE_COST", 10)
    with open_context(settings) as context:
        with context.database.transaction() as tx:
            ann = add_reviewer(tx, "ann")
            round_id = make_history(tx, ann.id, [PastDecision(i, i % 2 == 0) for i in range(8)])
        with context.database.transaction() as tx:
            # Without a stored report, it is computed whatever that costs.
            [now] = kept.reviewer_reports(tx, [ann])
            assert (now["decisions"], now["as_of"]) == (8, None)
            assert kept.has_stale_reports(tx)
        refresh_reports(context)
        with context.database.transaction() as tx:
            assert not kept.has_stale_reports(tx)
            [stored] = kept.reviewer_reports(tx, [ann])
            assert stored == now
            assert kept.own_report(tx, ann)["gold"] == now["gold"]
            expected = agreement.round_agreement(tx, round_id)
            assert kept.agreement_report(tx, round_id) == expected | {"as_of": None}
            # A further decision makes it stale; the page shows the stored one with its time.
            make_history(tx, ann.id, [PastDecision(9, True)])
            [old] = kept.reviewer_reports(tx, [ann])
            assert (old["decisions"], old["as_of"] is not None) == (8, True)
            assert not kept._stale(tx, kept.REVIEWER), "it is only seconds old"
            later = sa.text("now() - interval '2 minutes'")
            tx.execute(sa.update(kept_reports).values(created_at=later))
        sent = []
        context.database.send = sent.append
        reconcile(context)
        assert JobName.refresh_reports in {job.name for job in sent}
        refresh_reports(context)
        with context.database.transaction() as tx:
            [new] = kept.reviewer_reports(tx, [ann])
            assert (new["decisions"], new["as_of"]) == (9, None)


def test_small_reports_are_always_of_now(settings: Settings):
    with open_context(settings) as context, context.database.transaction() as tx:
        ann = add_reviewer(tx, "ann")
        make_history(tx, ann.id, [PastDecision(i, True) for i in range(5)])
        report = {"all": {}, "own": {}}
        store_report(tx, kept.REVIEWER, ann.id, report, marker=1, seconds=1.0)
        [now] = kept.reviewer_reports(tx, [ann])
        expected = reviewer_stats.reviewer_statistics(tx, ann, to_themselves=False)
        assert now == expected | {"as_of": None}
