"""Nothing that a reviewer can read tells which checkpoint is on which side of a comparison.

In two worlds the two checkpoints change their sides, and so do the images on the left and on the
right: both worlds show the same images in the same places. Every answer to a reviewer must be
equal, although one world has checkpoint A where the other has B.
"""

from __future__ import annotations

import itertools
import json
import re
import uuid
from contextlib import ExitStack
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from curation.adapters.celery_queue import CeleryQueue, make_app
from curation.api.app import create_app
from curation.comparison_values import ComparisonSide
from curation.comparisons import sessions
from curation.comparisons.sessions import ComparedSide
from curation.comparisons.votes import left_side
from curation.db.engine import Database
from curation.db.tables import comparison_drawings, comparison_items, comparisons
from curation.domain import Role
from curation.object_store import FolderStore
from curation.review import reviewers
from curation.runtime.context import AppContext
from curation.settings import Settings
from tests.support.compared_checkpoints import PROMPTS, draw_all, make_compared
from tests.support.factories import fresh_database, with_database

ITEMS = [uuid.uuid5(uuid.NAMESPACE_OID, f"item {index}") for index in range(4)]
NORMALIZED = (
    (re.compile(r"until=\d+&sign=[0-9a-f]+"), "until=T&sign=S"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+(Z|\+00:00)"), "TIME"),
)


class World:
    """One instance with one comparison, and all answers that its reviewer got."""

    def __init__(self, client: TestClient, number: int) -> None:
        self.client, self.number = client, number
        self.answers: list[tuple[str, int, Any, str]] = []
        self.keys = itertools.count()

    def call(self, method: str, path: str, body: Any = None) -> Any:
        response = self.client.request(method, path, json=body, follow_redirects=False)
        text = response.content.decode("latin-1")
        for pattern, replacement in NORMALIZED:
            text = pattern.sub(replacement, text)
        varying = {"date", "set-cookie", "x-request-id", "content-length", "cache-control"}
        headers = sorted((k, v) for k, v in response.headers.items() if k not in varying)
        self.answers.append((f"{method} {path.split('?')[0]}", response.status_code, headers, text))
        return response.json() if "json" in response.headers.get("content-type", "") else None

    def key(self) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_OID, f"key {next(self.keys)}"))

    def live(self) -> None:
        """Claim, see all images, vote in every way, undo, and look at everything else."""
        claimed = self.call("POST", "/api/comparison/claims", {"count": 8})["items"]
        assert len(claimed) == len(ITEMS)
        for item in claimed:
            for side, role in itertools.product(("left", "right"), item["left"]):
                self.call("GET", item[side][role]["url"])
                self.call("GET", item[side][role]["small"])
        for item, choice in zip(claimed, ("left", "right", "equal", "both_bad"), strict=True):
            body = {"item": item["id"], "choice": choice, "key": self.key()}
            self.call("POST", "/api/comparison/votes", body)
            self.call("POST", "/api/comparison/votes", body)
            self.call("POST", "/api/comparison/votes", body | {"key": self.key()})
            self.call("POST", "/api/comparison/undo", {"key": self.key()})
            self.call("POST", "/api/comparison/votes", body | {"key": self.key()})
            self.call("POST", "/api/comparison/claims", {"count": 3, "comparison": self.number})
        for path in ("", f"/{self.number}", f"/{self.number}/close"):
            method = "POST" if path.endswith("close") else "GET"
            self.call(method, f"/api/comparisons{path}")
        for path in (
            "/comparison",
            f"/comparisons/{self.number}",
            "/api/me",
            "/api/me/stats",
            "/api/rounds",
            "/api/runs",
            "/api/checkpoints",
            "/api/review/latest",
        ):
            self.call("GET", path)


@pytest.fixture
def make_world(postgres_address: str, template_database: str, tmp_path):
    with ExitStack() as stack:

        def make(*, reverse: bool) -> World:
            name = stack.enter_context(fresh_database(postgres_address, template_database))
            address = with_database(postgres_address, name)
            database = Database(address)
            stack.callback(database.close)
            store = FolderStore(tmp_path / name)
            with database.transaction() as tx:
                ann = reviewers.add_reviewer(tx, "ann", Role.annotator)
                token = reviewers.issue_token(tx, ann, 5)
                sides = [ComparedSide(one) for one in make_compared(tx)]
                number = sessions.open_comparison(
                    tx,
                    *(reversed(sides) if reverse else sides),
                    PROMPTS,
                    count=len(ITEMS),
                    actor="test",
                )
                rename_items(tx, number)
                set_left_side(tx, ann.id, ComparisonSide.b if reverse else ComparisonSide.a)
            draw_all(database, store, number)
            settings = Settings(home=tmp_path / f"{name}-home", database=address, secret="s" * 40)
            queue = CeleryQueue(make_app(settings, address))
            app = create_app(AppContext(settings, database, store, queue))
            client = stack.enter_context(
                TestClient(app, base_url="http://127.0.0.1", headers={"x-layerloop": "1"})
            )
            assert client.post("/api/session", json={"token": token}).status_code == 200
            return World(client, number)

        yield make


def rename_items(tx: Any, number: int) -> None:
    """Give the items the same ids in every world."""
    former = sa.select(comparison_items).where(comparison_items.c.comparison_id == number)
    for row in tx.execute(former.order_by(comparison_items.c.position)).mappings().all():
        item = dict(row) | {"id": ITEMS[row["position"]], "position": row["position"] + 1_000}
        tx.execute(sa.insert(comparison_items), item)
        drawings = sa.update(comparison_drawings).where(comparison_drawings.c.item_id == row["id"])
        tx.execute(drawings.values(item_id=item["id"]))
        tx.execute(sa.delete(comparison_items).where(comparison_items.c.id == row["id"]))


def set_left_side(tx: Any, reviewer: int, side: ComparisonSide) -> None:
    """Choose a key by which this side is on the left of every item."""
    key = next(
        key
        for key in (n.to_bytes(32, "big") for n in itertools.count())
        if all(left_side(key, item, reviewer) is side for item in ITEMS)
    )
    tx.execute(sa.update(comparisons).values(side_key=key))


def test_no_answer_tells_which_checkpoint_is_on_the_left(make_world):
    first, second = make_world(reverse=False), make_world(reverse=True)
    for world in (first, second):
        world.live()
    for one, other in zip(first.answers, second.answers, strict=True):
        assert one == other
    statuses = {status for _, status, _, _ in first.answers}
    assert {200, 403, 409} <= statuses


def test_no_answer_names_a_checkpoint_or_a_side(make_world, database):
    world = make_world(reverse=False)
    world.live()
    for call, status, _, text in world.answers:
        if not call.startswith("POST /api/comparison/") or status != 200:
            continue
        found = json.loads(text)
        assert not {"a", "b", "checkpoint", "side", "side_key", "seed"} & set(keys_of(found)), call


def keys_of(value: Any) -> set[str]:
    """Return all keys of nested objects."""
    if isinstance(value, list):
        return set().union(*map(keys_of, value)) if value else set()
    if not isinstance(value, dict):
        return set()
    return set(value) | set().union(*map(keys_of, value.values()))
