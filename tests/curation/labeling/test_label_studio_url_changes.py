"""A changed public URL: tasks and webhooks in Label Studio are updated."""

from __future__ import annotations

from dataclasses import replace

import pytest

from curation import jobs
from curation.adapters.celery_queue import CeleryQueue, make_app
from curation.labeling import project_locks, reconcile
from curation.labeling.previews import PreviewUrls
from curation.labeling.sync import LabelingSync
from curation.runtime.context import AppContext
from tests.support.label_studio import ACCEPT, LabeledRound, begin_import, make_labeled_round

pytestmark = pytest.mark.slow

ADA = "ada@example.org"
NEW = "http://127.0.0.1:2"


def moved(sync: LabelingSync, address: str = NEW) -> LabelingSync:
    """Return the synchronization of the same instance at another public URL."""
    return replace(sync, layer_url=PreviewUrls("secret", address).sign_url)


def pages(labeled: LabeledRound) -> dict[int, tuple[bool, object]]:
    """Return by task whether it shows the new URLs, and when it changed last."""
    found = labeled.studio.client.tasks.list(
        project=labeled.project.remote_id, page_size=500, include="id,data,updated_at"
    )
    return {
        task.id: (f'src="{NEW}/api/labeling/previews/' in task.data["look"], task.updated_at)
        for task in found
    }


def test_tasks_get_new_urls_and_keep_their_annotations(labeled):
    labeled.studio.annotate(labeled.task(0), ACCEPT, by=ADA)
    labeled.studio.annotate(labeled.task(1), None, was_cancelled=True, by=ADA)
    labeled.sync.pull()
    before = set(pages(labeled))
    sync = moved(labeled.sync)
    assert [
        (difference.kind, difference.repairable)
        for difference in reconcile.compare(sync, labeled.round)
    ] == [("stale", True)] * 8
    reconcile.repair(sync, labeled.round)
    assert reconcile.compare(sync, labeled.round) == []
    now = pages(labeled)
    assert set(now) == before, "updated in place with the same ids"
    assert all(new for new, _ in now.values()), (
        "decided tasks too, since users may edit their annotations"
    )
    assert (labeled.decisions(0), labeled.decisions(1)) == ([("accept", ADA)], [("skip", ADA)])
    assert sync.pull(everything=True) == {}
    assert pages(labeled) == now, "nothing is updated twice"
    labeled.studio.annotate(labeled.task(1), ACCEPT, by=ADA)
    assert sync.pull() == {"decided": 1}


def test_many_stale_tasks_without_annotations_are_pushed_again(labeled, monkeypatch):
    monkeypatch.setattr("curation.labeling.sync.MAX_UPDATED", 7)
    labeled.studio.annotate(labeled.task(1), None, was_cancelled=True, by=ADA)
    labeled.sync.pull()
    stays = labeled.task(1)
    sync = moved(labeled.sync)
    assert sync.pull(everything=True) == {"tasks_updated": 8}
    assert {task_id: new for task_id, (new, _) in pages(labeled).items()} == {stays: True}
    assert sync.push(labeled.round) == {"pushed": 7}
    assert [new for new, _ in pages(labeled).values()] == [True] * 8
    assert labeled.task(1) == stays
    assert reconcile.compare(sync, labeled.round) == []


def test_one_stale_task_triggers_a_full_read(labeled):
    sync = moved(labeled.sync)
    assert labeled.sync.pull() == {}
    assert sync.pull() == {"tasks_updated": 8}, "the first pull reads all tasks"
    assert all(new for new, _ in pages(labeled).values())
    assert sync.pull() == {}


def test_an_interrupted_import_resumes_with_new_urls(labeled, store):
    other, project, batch, sending = begin_import(labeled, store, 6)
    labeled.sync.backend.push(
        project, batch, sending[:4]
    )  # and the process dies, and the instance moves
    sync = moved(labeled.sync)
    assert sync.push(other.round) == {"pushed": 6}
    assert [new for new, _ in pages(other).values()] == [True] * 6
    assert reconcile.compare(sync, other.round) == []


def test_a_task_deleted_during_the_update_is_pushed_again(labeled, monkeypatch):
    gone = labeled.task(2)
    rewrite = labeled.sync.backend._update_task

    def delete_before_writing(*args):
        labeled.studio.client.tasks.delete(str(gone))
        monkeypatch.undo()
        rewrite(*args)

    monkeypatch.setattr(labeled.sync.backend, "_update_task", delete_before_writing)
    sync = moved(labeled.sync)
    assert sync.pull(everything=True) == {"tasks_updated": 8}
    assert sync.pull() == {"tasks_lost": 1}
    assert sync.push(labeled.round) == {"pushed": 1}
    assert [new for new, _ in pages(labeled).values()] == [True] * 8


def test_the_webhook_url_is_updated_in_place(studio, backend, database, store):
    from curation.adapters.label_studio import LabelStudioBackend

    def backend_at(public_url: str, secret: str) -> LabelStudioBackend:
        return LabelStudioBackend(
            backend.url,
            studio.server.token,
            (f"{public_url}/api/labeling/webhook", {"X-Of-Ours": secret}),
        )

    first, second = backend_at("http://127.0.0.1:1", "one"), backend_at(NEW, "two")
    labeled = make_labeled_round(studio, first, database, store, 2)
    labeled.sync.pull(everything=True)
    sync = replace(moved(labeled.sync), backend=second)
    for _ in range(2):
        sync.pull(everything=True)
    [hook] = studio.client.webhooks.list(project=str(labeled.project.remote_id))
    assert (hook.url, hook.is_active) == (
        f"{NEW}/api/labeling/webhook?project={labeled.project.id}",
        True,
    )
    assert hook.headers["X-Of-Ours"] == "two"
    first.close()
    second.close()


def test_a_starting_worker_updates_stale_urls(labeled, settings, database, store):
    labeling = {
        "labeling": f"label-studio+{labeled.studio.server.address}",
        "labeling_token": labeled.studio.server.token,
        "public_url": NEW,
    }
    settings = type(settings)(**settings.model_dump() | labeling)
    context = AppContext(
        settings, database, store, CeleryQueue(make_app(settings, settings.database))
    )
    labeled.sync.pull()
    jobs.pull_annotations(context, str(labeled.project.id))
    first = pages(labeled)
    assert all(new for new, _ in first.values())
    jobs.pull_annotations(context, str(labeled.project.id))
    assert pages(labeled) == first


def test_the_project_lock_is_renewed_during_a_long_pull(labeled, monkeypatch):
    monkeypatch.setattr(project_locks, "LOCK_SECONDS", 1)
    monkeypatch.setattr("curation.labeling.sync.PULL_CHUNK", 1)
    pull = labeled.sync.backend.pull
    claims = []

    def pull_slowly(project, since, **more):
        reading = pull(project, since, **more)
        return replace(reading, tasks=(wait(task) for task in reading.tasks))

    def wait(task):
        import time

        time.sleep(0.4)
        with project_locks.project_lock(labeled.database, labeled.project, "another") as own:
            claims.append(own)
        return task

    monkeypatch.setattr(labeled.sync.backend, "pull", pull_slowly)
    labeled.sync.pull(everything=True)
    assert claims == [False] * 8
