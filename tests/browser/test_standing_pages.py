"""The pages of figures: everybody's own, and for engineers those of all, with curves, facts and pauses."""

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
from tests.browser.reviewing import OpenPage, Site, barriers, wait_until_shown
from tests.history import Past, make_history


def past_of(seed: int, threshold: float) -> list[Past]:
    """Two sittings of 200 decisions, a third of them gold, by somebody who notices defects from a threshold on."""
    rng = np.random.default_rng(seed)
    past = []
    for i in range(400):
        seconds = 4.0 * i + (7_200 if i >= 200 else 0)
        dwell = round(900 * math.exp(rng.normal(0, 0.4)))
        if i % 3:
            past.append(Past(seconds, accept=bool(rng.random() < 0.2), dwell_ms=dwell))
            continue
        clean = rng.random() < 0.25
        severity = 0.0 if clean else float(rng.uniform(0.02, 1))
        seen = rng.random() < reject_probability(severity, threshold, 14.0, 0.05)
        defect = None if clean else list(DEFECTS)[i // 3 % len(DEFECTS)]
        past.append(Past(seconds, not seen, dwell, gold=True, defect=defect, severity=severity))
    return past


@pytest.fixture
def grace(database: Database) -> str:
    with database.transaction() as tx:
        make_history(tx, add_reviewer(tx, "Grace").id, past_of(1, 0.35))
        make_history(tx, add_reviewer(tx, "Hopper").id, past_of(2, 0.7))
    return "Grace"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_sees_their_own_figures(
    open_page: OpenPage, site: Site, grace: str, scheme: str
) -> None:
    page = open_page(name=grace, role=Role.annotator, path="/rounds", color_scheme=scheme)
    page.get_by_role("link", name="Grace").click()
    page.wait_for_url("**/me")
    expect(page.locator(".tiles")).to_contain_text("Decisions an hour")
    expect(page.locator(".curves figure")).to_have_count(len(DEFECTS))
    names = [svg.get_attribute("aria-label") for svg in page.locator(".curves svg").all()]
    assert all("noticed" in str(name) and "looks" in str(name) for name in names)
    expect(page.locator("dl.facts")).to_contain_text("coins of the same share bring about")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert barriers(page) == []


def test_engineers_see_everybody_and_who_is_paused(
    open_page: OpenPage, site: Site, grace: str, database: Database
) -> None:
    with database.transaction() as tx:
        told = (
            sa.update(reviewers)
            .where(reviewers.c.name == "Hopper")
            .values(paused="3 of 14 plain defects were noticed")
        )
        tx.execute(told)
    page = open_page(path="/reviewers")
    expect(page.locator("#rows tr")).to_have_count(3)
    row = page.locator("#rows tr", has_text="Hopper")
    expect(row).to_contain_text("paused")
    page.get_by_role("button", name="Hopper").click()
    expect(page.locator("#chosen-name")).to_have_text("Hopper")
    expect(page.locator("#standing .note")).to_contain_text("3 of 14 plain defects were noticed")
    expect(page.locator("#standing .curves figure")).to_have_count(len(DEFECTS))
    assert page.url.endswith("#Hopper")
    assert barriers(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert barriers(page) == []


def test_a_paused_reviewer_is_told_on_the_review_page(
    open_page: OpenPage, site: Site, database: Database, round_id: int
) -> None:
    with database.transaction() as tx:
        add_reviewer(tx, "Grace")
        tx.execute(sa.update(reviewers).values(paused="3 of 14 plain defects were noticed"))
    page = open_page(name="Grace", role=Role.annotator)
    expect(page.locator("#failure")).to_contain_text(
        "Your reviewing is paused: 3 of 14 plain defects were noticed."
    )
    expect(page.locator("#failure")).to_contain_text("engineer")
    expect(page.get_by_role("heading", name="Nothing is shown to you for now")).to_be_visible()
    expect(page.get_by_role("button", name="Accept")).to_have_count(0)
    with database.transaction() as tx:
        tx.execute(sa.update(reviewers).values(paused=None))
    wait_until_shown(page)
    expect(page.locator("#failure")).to_be_hidden()


def test_the_round_page_says_when_no_worker_takes_what_waits(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    page = open_page(path=f"/rounds/{round_id}")
    expect(page.locator("#report")).to_be_visible()
    expect(page.locator("#untaken")).to_be_hidden()
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
    expect(page.locator("#untaken")).to_contain_text(
        "For over a minute no worker has taken: 1 drawings."
    )


def test_the_round_page_tells_agreement_where_several_decide(
    open_page: OpenPage, site: Site, database: Database, round_id: int
) -> None:
    with database.transaction() as tx:
        set_consensus(tx, round_id, ConsensusSettings(ConsensusRule.majority, 2), "test")
        ids = (
            tx.execute(sa.select(candidates.c.id).where(candidates.c.round_id == round_id))
            .scalars()
            .all()
        )
        for place, one in enumerate(ids[:20]):
            for name in ("Grace", "Hopper"):
                accept = place % 5 == 0 if name == "Grace" else place % 4 == 0
                verdict = Verdict.accept if accept else Verdict.reject
                decide(tx, add_reviewer(tx, name).id, one, verdict, key=uuid.uuid4())
    page = open_page(path=f"/rounds/{round_id}")
    expect(page.locator("#consensus")).to_contain_text("2 people decide each candidate, blind")
    expect(page.locator("#consensus")).to_contain_text("7 candidates for an adjudicator")
    expect(page.locator("#agreement tr")).to_have_count(2)
    expect(page.locator("#agreement tr").last).to_contain_text("Grace and Hopper")
    expect(page.locator("#agreement tr").last).to_contain_text("65 %")
    expect(page.locator("#funnel li").first).to_be_visible()
