"""Jobs of review: the rule reviewer, consensus, and the synchronization with Label Studio."""

from __future__ import annotations

import logging
import re
import uuid
from collections import Counter
from collections.abc import Callable

from curation.domain import JobName, ReviewItem, RuleVerdict
from curation.errors import LayerloopError
from curation.jobs.lease_heartbeat import WORKER_ID
from curation.jobs.model_cache import get_rule_reviewer
from curation.labeling import projects, rule_annotator
from curation.labeling.sync import LabelingSync
from curation.quality import aggregation
from curation.reporting import kept
from curation.review import decisions, reviewers
from curation.rounds.lifecycle import find_round
from curation.runtime.context import AppContext, open_labeling_sync
from curation.screening.pairs import rule_reviewer

log = logging.getLogger("layerloop.jobs")

REVIEW_BATCH_SIZE = 16

_DIGITS = re.compile(r"[0-9a-f-]{32,36}|\d+")

_failures: Counter[str] = Counter()
_read_completely: set[str] = set()


def review(context: AppContext, round_id: int) -> None:
    """Decide a batch of a round with the rule reviewer, and enqueue the next if there was one.

    Args:
        context: The app context.
        round_id: Id of the round.
    """
    judge = get_rule_reviewer(context, round_id)
    # A round that is labeled in Label Studio gets its annotations there.
    with context.database.transaction() as tx:
        in_label_studio = context.settings.labeling_url is not None and projects.is_pushed(
            tx, round_id
        )
    if in_label_studio:

        def decide_item(item: ReviewItem) -> RuleVerdict:
            return rule_reviewer.review_item(judge, context.store, item)

        _annotate(context, round_id, decide_item)
        return
    # Claim a batch, decide it without an open transaction, and record the verdicts.
    with context.database.transaction() as tx:
        reviewer = reviewers.add_rule_reviewer(tx)
        items = decisions.claim_items(
            tx, reviewer, round_id, REVIEW_BATCH_SIZE, (), context.settings.lease_seconds
        )
    verdicts = [(item, rule_reviewer.review_item(judge, context.store, item)) for item in items]
    with context.database.transaction() as tx:
        for item, verdict in verdicts:
            decisions.record_rule_verdict(tx, reviewer, item, verdict)
        # People may have taken the round over meanwhile.
        if items and find_round(tx, round_id)["rule_reviewer"]:
            tx.enqueue(JobName.review, round_id)


def aggregate(context: AppContext, round_id: int) -> None:
    """Estimate the skills of a round's reviewers again, and resolve candidates that are certain."""
    with context.database.transaction() as tx:
        settled = aggregation.resolve_waiting(tx, round_id)
    log.info("round %d: %d candidates were resolved", round_id, settled)


def _annotate(
    context: AppContext, round_id: int, judge: Callable[[ReviewItem], RuleVerdict]
) -> None:
    """Annotate a batch in Label Studio with the rule reviewer, and enqueue the next."""

    def annotate(sync: LabelingSync) -> None:
        if rule_annotator.annotate_by_rules(sync, round_id, judge, REVIEW_BATCH_SIZE):
            with context.database.transaction() as tx:
                tx.enqueue(JobName.review, round_id)

    _with_sync(context, annotate)


def refresh_reports(context: AppContext) -> None:
    """Store the statistics of reviewers and the agreement in rounds that have new decisions."""
    if kept.refresh_reports(context.database):
        with context.database.transaction() as tx:
            tx.enqueue(JobName.refresh_reports)


def push_tasks(context: AppContext, round_id: int) -> None:
    """Update a round's projects in Label Studio: push a batch of tasks, remove decided tasks."""
    _with_sync(context, lambda sync: sync.push(round_id))


def pull_annotations(context: AppContext, project_id: str | None = None) -> None:
    """Pull the annotations of a project in Label Studio, or enqueue that for all projects.

    The first time in a process a project is read completely: the changes since the last reading do
    not show an installation that moved, or changes on either side while no worker ran.

    Args:
        context: The app context.
        project_id: Id of the project; None enqueues all projects.
    """
    source = (
        f"{context.settings.labeling} {context.settings.public_address} {context.settings.database}"
    )
    if project_id is None:
        _enqueue_all(context, source)
        return

    def pull(sync: LabelingSync) -> None:
        with context.database.transaction() as tx:
            found = projects.find_project(tx, uuid.UUID(project_id))
        if found is not None:
            sync.pull_project(found, everything=f"{source} {project_id}" not in _read_completely)
            _read_completely.add(f"{source} {project_id}")

    _with_sync(context, pull)


def _enqueue_all(context: AppContext, source: str) -> None:
    """Enqueue every open project, and the first time in a process the closed projects too."""
    url = context.settings.labeling_url
    if url is None:
        return
    with context.database.transaction() as tx:
        find = projects.open_projects if source in _read_completely else projects.created_projects
        for project in find(tx, url):
            tx.enqueue(JobName.pull_annotations, str(project.id))
    _read_completely.add(source)


def _with_sync(context: AppContext, work: Callable[[LabelingSync], object]) -> None:
    """Call `work` with the connection to Label Studio, if there is one.

    Errors are logged and not raised, since the reconcile job enqueues the work again. An outage is
    logged once, and once more when the server answers again, with the number of failures.
    """
    try:
        with open_labeling_sync(context, WORKER_ID) as sync:
            if sync is not None:
                work(sync)
    except LayerloopError as error:
        # Without ids, so that repeated errors are equal.
        message = _DIGITS.sub("", error.message)
        if message not in _failures:
            log.warning("%s (%s)", error.message, error.hint)
        _failures[message] += 1
    else:
        if _failures:
            log.info("Label Studio answers again, after %d failed tries", sum(_failures.values()))
        _failures.clear()
