"""The round page: review cost per slice, yield of the next hour, automatic decisions, when to stop."""

from __future__ import annotations

import numpy as np
import sqlalchemy as sa
from playwright.sync_api import expect

from curation.db.engine import Database
from curation.db.tables import gates
from curation.domain import Role, Verdict
from curation.selection.auto_reviewer import decide_all
from curation.selection.select import select_candidates
from tests.browser.reviewing import OpenPage, Site, accessibility_violations
from tests.support.candidate_streams import (
    SOURCE,
    accepts,
    arrive,
    fitted_model,
    judge_waiting,
    open_stream,
)


def test_the_round_page_shows_the_review_cost(
    open_page: OpenPage, site: Site, database: Database
) -> None:
    with database.transaction() as tx:
        fitted_model(tx)
        policy = {
            "kind": "mixed",
            "share": 0.5,
            "likely": 0.5,
            "uncertain": 0.2,
            "random": 0.3,
            "wanted": 20,
        }
        round_id = open_stream(tx, policy, 10**6)
        quality = np.random.default_rng(1).standard_normal(400)
        ids = arrive(tx, round_id, 1, quality)
        select_candidates(tx, round_id, SOURCE)
        judge_waiting(
            tx, round_id, dict(zip(ids, accepts(1, quality).tolist(), strict=True)), most=100
        )
        assert decide_all(tx, ids, Verdict.reject, "by gate 1") > 100
    page = open_page(path=f"/rounds/{round_id}", name="Ada", role=Role.engineer)
    expect(page.locator("#cost tr th")).to_have_text(["likely", "random", "uncertain"])
    expect(page.locator("#next-hour")).to_contain_text("An estimate needs 10 min of review time")
    expect(page.locator("#stop")).to_contain_text("20 were wanted")
    expect(page.locator("#tiles")).to_contain_text("decided automatically")
    expect(page.locator("#summary")).to_contain_text(
        "50% of screened candidates go to human review (mixed)"
    )
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert accessibility_violations(page) == []


def test_the_round_page_shows_open_and_closed_gates(
    open_page: OpenPage, site: Site, database: Database
) -> None:
    bound = {"k": 0, "n": 300, "low": 0.0, "high": 0.0122}
    metrics = {
        "n": 300,
        "budget": 0.02,
        "level": 0.025,
        "share": 0.35,
        "lost": bound,
        "wrong": bound | {"high": 0.03},
    }
    with database.transaction() as tx:
        model_id = fitted_model(tx).id
        round_id = open_stream(tx, {"kind": "mixed", "share": 0.5, "reject_budget": 0.02}, 10)
        row = {
            "round_id": round_id,
            "acceptance_model_id": model_id,
            "verdict": "reject",
            "interim_look": 1,
            "threshold": 0.1,
        }
        tx.execute(sa.insert(gates), row | {"metrics": metrics})
    page = open_page(path=f"/rounds/{round_id}", name="Ada", role=Role.engineer)
    cells = page.locator("#gates tr > *")
    expect(cells).to_have_text(
        ["1: rejects 35%open", "≤ 1.2%of acceptable candidates rejected", "2%", "0 of 0 wrong"]
    )
    expect(page.locator("#gates-closed")).to_be_hidden()
    against = {"contradicted": {"judged": 40, "errors": 12, "low": 0.09}}
    with database.transaction() as tx:
        tx.execute(sa.update(gates).values(closed_at=sa.func.now(), metrics=metrics | against))
    expect(page.locator("#gates-closed")).to_contain_text(
        "Gate 1 was closed: 12 of 40 audited rejects were wrong (at least 9% of acceptable candidates rejected, limit 2%)."
    )
    expect(page.locator("#gates-closed code")).to_have_text(
        f"layerloop round revert-auto {round_id}"
    )
    expect(cells.last).to_have_text("12 of 40 wrongat least 9%")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert accessibility_violations(page) == []
