"""Reviewer statistics: one's own, and those of every reviewer for engineers, with curves and pauses."""

from __future__ import annotations

import math
import uuid

import numpy as np
import pytest
import sqlalchemy as sa
from playwright.sync_api import expect

from curation.db.engine import Database
from curation.db.tables import candidates, reviewers
from curation.domain import ConsensusRule, Role, Verdict
from curation.review.consensus import ConsensusSettings, set_consensus
from curation.review.decisions import decide
from curation.review.reviewers import add_reviewer
from curation.screening.defects import DEFECTS
from curation.statistics.psychometric import reject_probability
from tests.browser.reviewing import OpenPage, Site, accessibility_violations, wait_until_shown
from tests.support.decision_history import PastDecision, make_history


def past_of(seed: int, threshold: float) -> list[PastDecision]:
    """Return two sessions of 200 decisions, a third of them gold, by a reviewer with this threshold."""
    rng = np.random.default_rng(seed)
    past = []
    for i in range(400):
        seconds = 4.0 * i + (7_200 if i >= 200 else 0)
        dwell = round(900 * math.exp(rng.normal(0, 0.4)))
        if i % 3:
            past.append(PastDecision(seconds, accept=bool(rng.random() < 0.2), dwell_ms=dwell))
            continue
        clean = rng.random() < 0.25
        severity = 0.0 if clean else float(rng.uniform(0.02, 1))
        seen = rng.random() < reject_probability(severity, threshold, 14.0, 0.05)
        defect = None if clean else list(DEFECTS)[i // 3 % len(DEFECTS)]
        past.append(
            PastDecision(seconds, not seen, dwell, gold=True, defect=defect, severity=severity)
        )
    return past


@pytest.fixture
def grace(database: Database) -> str:
    with database.transaction() as tx:
        make_history(tx, add_reviewer(tx, "Grace").id, past_of(1, 0.35))
        make_history(tx, add_reviewer(tx, "Hopper").id, past_of(2, 0.7))
    return "Grace"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_reviewers_see_their_own_statistics(
    open_page: OpenPage, site: Site, grace: str, scheme: str
) -> None:
    page = open_page(name=grace, role=Role.annotator, path="/rounds", color_scheme=scheme)
    page.get_by_role("link", name="Grace").click()
    page.wait_for_url("**/me")
    expect(page.locator(".tiles")).to_contain_text("Decisions per hour")
    expect(page.locator(".curves figure")).to_have_count(len(DEFECTS))
    names = [svg.get_attribute("aria-label") for svg in page.locator(".curves svg").all()]
    assert all("noticed" in str(name) and "reviewed" in str(name) for name in names)
    expect(page.locator("dl.properties")).to_contain_text("expected by chance")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert accessibility_violations(page) == []


def test_engineers_see_every_reviewer_and_pauses(
    open_page: OpenPage, site: Site, grace: str, database: Database
) -> None:
    with database.transaction() as tx:
        pause = (
            sa.update(reviewers)
            .where(reviewers.c.name == "Hopper")
            .values(paused="3 of 14 obvious defects were noticed")
        )
        tx.execute(pause)
    page = open_page(path="/reviewers")
    expect(page.locator("#rows tr")).to_have_count(3)
    row = page.locator("#rows tr", has_text="Hopper")
    expect(row).to_contain_text("paused")
    page.get_by_role("button", name="Hopper").click()
    expect(page.locator("#selected-name")).to_have_text("Hopper")
    expect(page.locator("#stats .note")).to_contain_text("3 of 14 obvious defects were noticed")
    expect(page.locator("#stats .curves figure")).to_have_count(len(DEFECTS))
    assert page.url.endswith("#Hopper")
    assert accessibility_violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert accessibility_violations(page) == []


def test_a_paused_reviewer_sees_the_reason(
    open_page: OpenPage, site: Site, database: Database, round_id: int
) -> None:
    with database.transaction() as tx:
        add_reviewer(tx, "Grace")
        tx.execute(sa.update(reviewers).values(paused="3 of 14 obvious defects were noticed"))
    page = open_page(name="Grace", role=Role.annotator)
    expect(page.locator("#error")).to_contain_text(
        "Your reviewing is paused: 3 of 14 obvious defects were noticed."
    )
    expect(page.locator("#error")).to_contain_text("engineer")
    expect(page.get_by_role("heading", name="You can't review at the moment")).to_be_visible()
    expect(page.get_by_role("button", name="Accept")).to_have_count(0)
    with database.transaction() as tx:
        tx.execute(sa.update(reviewers).values(paused=None))
    wait_until_shown(page)
    expect(page.locator("#error")).to_be_hidden()


def test_the_round_page_warns_when_no_worker_claims_jobs(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    page = open_page(path=f"/rounds/{round_id}")
    expect(page.locator("#report")).to_be_visible()
    expect(page.locator("#stalled")).to_be_hidden()
    with database.transaction() as tx:
        prompt = tx.scalar(sa.select(candidates.c.prompt_id).limit(1))
        row = {
            "id": uuid.uuid4(),
            "round_id": round_id,
            "prompt_id": prompt,
            "seed": 1,
            "state": "requested",
        }
        row["changed_at"] = sa.text("now() - interval '5 minutes'")
        tx.execute(sa.insert(candidates).values(row))
    expect(page.locator("#stalled")).to_contain_text(
        "No worker has claimed these jobs for over a minute: image generation (1)."
    )


def test_the_round_page_shows_agreement_of_several_reviewers(
    open_page: OpenPage, site: Site, database: Database, round_id: int
) -> None:
    with database.transaction() as tx:
        set_consensus(tx, round_id, ConsensusSettings(ConsensusRule.majority, 2), "test")
        ids = (
            tx.execute(sa.select(candidates.c.id).where(candidates.c.round_id == round_id))
            .scalars()
            .all()
        )
        for index, candidate in enumerate(ids[:20]):
            for name in ("Grace", "Hopper"):
                accept = index % 5 == 0 if name == "Grace" else index % 4 == 0
                verdict = Verdict.accept if accept else Verdict.reject
                decide(tx, add_reviewer(tx, name).id, candidate, verdict, key=uuid.uuid4())
    page = open_page(path=f"/rounds/{round_id}")
    expect(page.locator("#consensus")).to_contain_text("2 reviewers per candidate, blind")
    expect(page.locator("#consensus")).to_contain_text("7 candidates awaiting adjudication")
    expect(page.locator("#agreement tr")).to_have_count(2)
    expect(page.locator("#agreement tr").last).to_contain_text("Grace and Hopper")
    expect(page.locator("#agreement tr").last).to_contain_text("65%")
    expect(page.locator("#funnel li").first).to_be_visible()
