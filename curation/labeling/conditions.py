"""SQL conditions of labeling: which candidates are pushed, and which tasks are unwanted."""

from __future__ import annotations

import sqlalchemy as sa

from curation.rounds.lifecycle import GOLD_PURPOSE

# Number of users who are to annotate a task.
OVERLAP_SQL = "coalesce((r.consensus ->> 'overlap')::int, 1)"

# Condition on a round: its candidates are pushed to Label Studio. Gold never is, because users
# could recognize it there; a round with overlap only on request, because users see the annotations
# of others there.
ROUND_IS_PUSHED_SQL = f"""(r.state = 'open' and r.purpose <> '{GOLD_PURPOSE}'
    and (r.labeling = 'label-studio' or r.labeling is null and {OVERLAP_SQL} <= 1))"""
# Subquery: the open or refused tasks of a candidate.
OPEN_TASKS_SQL = """select from labeling_tasks t
    where t.candidate_id = c.id and t.state in ('sending', 'open', 'refused')"""
# Condition on a task: it has to be removed. A candidate that is claimed on the review page is
# removed from Label Studio, unless several reviewers decide it; one that was taken down always is.
TASK_IS_UNWANTED_SQL = f"""(t.state in ('open', 'annotated') and t.remote_id is not null
    and c.state = 'removed' or t.state = 'open' and not (
    {ROUND_IS_PUSHED_SQL}
    and (c.state = 'waiting' or c.state = 'showing' and {OVERLAP_SQL} > 1)))"""
# Condition on a project: an annotation waits for a reviewer's lease to end.
WAITS_FOR_LEASE_SQL = """exists (
    select from labeling_annotations a join labeling_tasks o on o.id = a.task_id
    where o.project_id = p.id and a.decision_id is null and a.refused is null and not a.deleted)"""

# Waiting candidates without a task, by priority.
CANDIDATES_TO_PUSH = sa.text(f"""
    select c.id from candidates c join rounds r on r.id = c.round_id
    where r.id = :round and {ROUND_IS_PUSHED_SQL} and c.state = 'waiting'
        and not exists ({OPEN_TASKS_SQL})
    order by c.priority desc, c.id limit :count""")
