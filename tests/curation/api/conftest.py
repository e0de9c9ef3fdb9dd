"""An instance with a round, served in this process, and clients that are signed in with each role."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from fastapi.testclient import TestClient

from curation.adapters.celery_queue import CeleryQueue, make_app
from curation.api.adaptive_cache import AdaptiveCache
from curation.api.app import create_app
from curation.domain import Role
from curation.review import reviewers
from curation.runtime.context import AppContext
from curation.settings import Settings
from tests.support.factories import make_candidates, make_round

LOOPBACK = "http://127.0.0.1"
CHANGE = {"x-layerloop": "1"}


@pytest.fixture
def context(settings: Settings, database, store) -> AppContext:
    """Return the context of an instance without pages."""
    bare = settings.model_copy(update={"front_end": "there_are_no_pages:mount"})
    return AppContext(bare, database, store, CeleryQueue(make_app(bare, bare.database)))


@pytest.fixture
def app(context: AppContext):
    app = create_app(context)
    app.state.counts = AdaptiveCache(cheap=60)  # on a slow machine no count may be cached
    return app


@pytest.fixture
def client(app) -> Iterator[TestClient]:
    """Yield a client that has not signed in."""
    with TestClient(app, base_url=LOOPBACK, headers=CHANGE) as client:
        yield client


@pytest.fixture
def signed_in(app, database) -> Iterator[Callable[..., TestClient]]:
    """Yield a function that makes signed-in clients, one reviewer per role (or per name)."""
    with ExitStack() as stack:

        def sign_in(role: Role = Role.annotator, name: str = "") -> TestClient:
            with database.transaction() as tx:
                reviewer = reviewers.add_reviewer(tx, name or f"the {role}", role)
                token = reviewers.issue_token(tx, reviewer, 5)
            client = stack.enter_context(TestClient(app, base_url=LOOPBACK, headers=CHANGE))
            assert client.post("/api/session", json={"token": token}).status_code == 200
            return client

        yield sign_in


@pytest.fixture
def round_id(database, store) -> int:
    """Return an open round with twelve waiting candidates."""
    with database.transaction() as tx:
        round_id = make_round(tx, quota=12)
        make_candidates(tx, store, round_id, 12)
    return round_id
