"""Query plans of comparisons at size: what a reviewer claims does not depend on what is finished."""

from __future__ import annotations

import json
import uuid

import pytest
import sqlalchemy as sa

from curation.comparisons import drawing, votes
from curation.domain import Role
from curation.review.reviewers import add_reviewer
from tests.support.compared_checkpoints import open_drawn

COMPARISONS, ITEMS = 60, 1_000

FILL = f"""
with old as (
    insert into comparisons (kind, a_checkpoint_id, a_method, b_checkpoint_id, b_method, items,
        votes, seed, side_key, state, closed_at)
    select kind, a_checkpoint_id, a_method, b_checkpoint_id, b_method, {ITEMS}, 1, n, side_key,
        'closed', now() from comparisons, generate_series(1, {COMPARISONS}) n returning id),
added as (
    insert into comparison_items (id, comparison_id, position, prompt_id, seed, voted)
    select gen_random_uuid(), old.id, i, (select id from prompts limit 1), i, 1
    from old, generate_series(1, {ITEMS}) i returning id, comparison_id),
drawn as (
    insert into comparison_drawings (id, comparison_id, item_id, side, state)
    select gen_random_uuid(), comparison_id, id, side, 'generated'
    from added, unnest(array['a', 'b']) side)
insert into comparison_votes (comparison_id, item_id, reviewer_id, verdict, left_side, key)
select comparison_id, id, (select min(id) from reviewers), 'equal', 'a', gen_random_uuid()
from added"""


@pytest.mark.slow
def test_claims_read_no_finished_items(database, store):
    number = open_drawn(database, store, 20)
    with database.transaction() as tx:
        ann = add_reviewer(tx, "ann", Role.annotator).id
        tx.execute(sa.text(FILL))
    with database.transaction() as tx:
        tx.execute(sa.text("analyze"))
    plans: list[str] = []

    def explain(connection, _, statement, parameters, *__):
        if statement.lower().startswith("explain") or "comparison" not in statement:
            return
        raw = connection.connection.cursor()
        raw.execute(f"explain (format json) {statement}", parameters)
        plans.append(json.dumps(raw.fetchone()[0]))
        raw.close()

    with database.transaction() as tx:
        sa.event.listen(tx.connection, "before_cursor_execute", explain)
        [item] = votes.claim_next(tx, ann, None, 1, (), 60)
        votes.vote(tx, ann, item.id, votes.ComparisonChoice.equal, key=uuid.uuid4())
        votes.undo_vote(tx, ann, None, key=uuid.uuid4(), seconds=60)
        assert drawing.next_to_draw(tx) is None
        assert drawing.claim_drawings(tx, number, "worker", 8, 60) is None
    assert len(plans) > 8
    for plan in plans:
        for table in ("comparison_items", "comparison_drawings", "comparison_votes"):
            scan = f'"Node Type": "Seq Scan", "Parallel Aware": false, "Async Capable": false, "Relation Name": "{table}"'
            assert scan not in plan, plan
