"""The rule reviewer in Label Studio: it submits annotations like a user."""

from __future__ import annotations

from collections.abc import Callable

from curation.domain import ReviewItem, RuleVerdict, content_id
from curation.labeling import projects, task_states, users
from curation.labeling.sync import LabelingSync
from curation.review.queue import read_items
from curation.review.reviewers import add_rule_reviewer


def annotate_by_rules(
    sync: LabelingSync, round_id: int, judge: Callable[[ReviewItem], RuleVerdict], count: int
) -> bool:
    """Annotate tasks of a round that have no annotation, then pull the annotations.

    The annotation of a task has a fixed key, so repeating it before it is pulled has no effect.

    Args:
        sync: The synchronization with Label Studio.
        round_id: The round.
        judge: Returns the verdict on a candidate.
        count: Largest number of tasks.

    Returns:
        Whether any annotation was pulled.

    Raises:
        Unreachable: Label Studio does not respond.
    """
    with sync.database.transaction() as tx:
        users.assign_reviewer(tx, users.RULE_REVIEWER_EMAIL, add_rule_reviewer(tx))
        open_projects = projects.open_projects(tx, sync.backend.url, round_id)
        # By candidate: the task's ID here and in Label Studio.
        open_tasks = {
            candidate: ids
            for project in open_projects
            for candidate, ids in task_states.unannotated_candidates(tx, project, count).items()
        }
        items = read_items(tx, list(open_tasks)[:count])
    for item in items:
        task_id, remote_id = open_tasks[item.id]
        # The key of former versions, so that none of their annotations is submitted twice.
        key = content_id("oracle", task_id)
        sync.backend.submit_annotation(remote_id, users.RULE_REVIEWER_EMAIL, key, judge(item))
    return bool(sync.pull(round_id))
