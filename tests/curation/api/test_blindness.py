"""Nothing that an annotator can read distinguishes gold from other candidates or reveals verdicts of others.

Worlds are built that differ in one thing alone: which of two candidates is gold, or what another
reviewer has said of them. The same annotator makes the same requests in each, to every route of
the application and every page, before and after their own decisions. Status, headers and bytes of
all answers must be equal. Only two things are normalized: times, and the signatures of addresses
that depend on the time; the numbers of decisions are made to begin alike.
"""

from __future__ import annotations

import itertools
import random
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from starlette.routing import Mount, Route

from curation.adapters.celery_queue import CeleryQueue, make_app
from curation.api.adaptive_cache import AdaptiveCache
from curation.api.app import create_app
from curation.datasets.samples import NewSample, StoredLayer, add_samples, record_layers
from curation.db.engine import Database
from curation.db.tables import candidate_layers, candidates, layers, prompts, rounds, screenings
from curation.db.tables import gold as gold_table
from curation.domain import CandidateState, LayerRole, Prompt, Role, Verdict
from curation.images.codec import decode_layer, encode_layer, pixel_hash
from curation.images.perceptual_hash import HASH_BYTES, count_bits, fingerprint
from curation.object_store import FolderStore
from curation.quality import gold_creation
from curation.review import gold, reviewers
from curation.review.consensus import ConsensusRule, ConsensusSettings, set_consensus
from curation.review.decisions import decide
from curation.runtime.context import AppContext
from curation.screening.measurements import measure_single
from curation.settings import Settings
from tests.support.factories import (
    OpenTransaction,
    fresh_database,
    image,
    make_candidates,
    make_checkpoint,
    make_round,
    with_database,
)
from tests.support.pipeline_steps import screen_candidates

X, Y, *OTHERS = (uuid.uuid5(uuid.NAMESPACE_OID, f"candidate {index}") for index in range(8))
"""X and Y change roles between worlds: one is gold, the other is not."""
LOST = uuid.uuid5(uuid.NAMESPACE_OID, "a candidate that is not there")
MADE_KEY = itertools.count
SIDE = 32

Call = tuple[str, int, tuple[tuple[str, str], ...], str]


@dataclass
class World:
    """One application with one annotator in it, and all answers they got so far."""

    client: TestClient
    app: Any
    round: int
    responses: list[Call] = field(default_factory=list)
    urls: dict[str, str] = field(default_factory=dict)
    held: list[str] = field(default_factory=list)
    keys: Iterator[int] = field(default_factory=itertools.count)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Make a request and record its response."""
        response = self.client.request(method, path, json=body, follow_redirects=False)
        content = normalized(response.content.decode("latin-1"))
        # Times and random ids differ between any two requests.
        random = {"date", "set-cookie", "x-request-id"}
        headers = {k: v for k, v in response.headers.items() if k not in random}
        if content != response.content.decode("latin-1"):
            headers["content-length"] = str(len(content))
        shown_headers = normalized(tuple(sorted(headers.items())))
        self.responses.append(
            (normalized(f"{method} {path} {body}"), response.status_code, shown_headers, content)
        )
        is_json = response.content and "json" in response.headers.get("content-type", "")
        return response.json() if is_json else None

    def key(self) -> str:
        """Return a key that is equal in every world."""
        return str(uuid.uuid5(uuid.NAMESPACE_OID, f"key {next(self.keys)}"))

    def claim(self, count: int = 48) -> None:
        """Ask for candidates, as a page does."""
        body = {"count": count, "holding": self.held, "round": self.round}
        for item in self.call("POST", "/api/review/claims", body)["candidates"]:
            self.held.append(item["id"])
            self.urls |= {item["id"]: item["layers"]["foreground"]["url"]}

    def decide(self, candidate: uuid.UUID, verdict: str, key: str | None = None) -> None:
        """Decide a candidate."""
        body = {"candidate": str(candidate), "verdict": verdict, "key": key or self.key()}
        self.call("POST", "/api/review/decisions", body)
        self.held = [one for one in self.held if one != str(candidate)]

    def look_everywhere(self) -> None:
        """Call every route and page once; calls that change something fail or repeat an earlier one."""
        for route in routes_of(self.app):
            for method in sorted(route.methods or ()):
                for path in self.paths(route.path):
                    self.call(method, path, self.body(method, route.path))

    def paths(self, template: str) -> list[str]:
        """Return a route's address, with everything that an annotator could put into it."""
        if template == "/api/layers/{sha256}.{form}":
            return [self.urls[one] for one in sorted(self.urls)]
        if template == "/api/review/nearest":
            return [f"{template}?candidate={one}" for one in (X, Y, LOST)]
        values = {
            "number": str(self.round),
            "number:int": str(self.round),
            "name": "latest",
            "sample": LOST.hex,
            "run": str(X),
            "sha256": "0" * 64,
            "task_id": str(X),
            "role": "foreground",
        }
        unknown = set(re.findall(r"{(.+?)}", template)) - values.keys()
        assert not unknown, f"say in this test what an annotator would put into {template}"
        return [re.sub(r"{(.+?)}", lambda found: values[found[1]], template)]

    def body(self, method: str, path: str) -> Any:
        """Return a request body that an annotator would send to a route."""
        if method in {"GET", "HEAD", "DELETE"}:
            return None
        undo = {"decision": 10**6, "key": str(LOST)}
        lost = {"candidate": str(LOST), "verdict": "accept", "key": str(LOST)}
        both = [
            lost | {"candidate": str(one), "verdict": "skip", "key": str(one)} for one in (LOST,)
        ]
        bodies = {
            "/api/review/claims": {
                "count": 0,
                "holding": [*self.held, str(LOST)],
                "round": self.round,
            },
            "/api/review/decisions": lost,
            "/api/review/decisions/batch": {"decisions": both},
            "/api/review/undo": undo,
            "/api/review/undo/batch": {"undos": [undo]},
            "/api/review/release": {"candidates": [str(LOST)]},
            "/api/snapshots": {"tag": "latest"},
            "/api/comparison/claims": {"count": 2, "holding": [str(LOST)]},
            "/api/comparison/votes": {"item": str(LOST), "choice": "left", "key": str(LOST)},
            "/api/comparison/undo": {"vote": 10**6, "key": str(LOST)},
            "/api/comparison/release": {"items": [str(LOST)]},
        }
        known = path in bodies or path.startswith(
            (
                "/api/rounds/",
                "/api/checkpoints/",
                "/api/comparison/",
                "/api/comparisons/",
                "/api/labeling/",
                "/api/loops/",
                "/api/runs/",
            )
        )
        assert known, f"say in this test what an annotator would send to {method} {path}"
        return bodies.get(path)


ENDS_THE_SESSION = {("POST", "/api/session"), ("DELETE", "/api/session")}


def routes_of(app: Any) -> list[Route]:
    """Every route of the API and every page, but for signing in and out."""
    found: list[Route] = []
    open_ends = list(app.routes)
    while open_ends:
        route = open_ends.pop(0)
        if isinstance(route, Route):
            found.append(route)
        elif isinstance(route, Mount):
            assert route.path.startswith("/static/"), "files of the package, equal for all"
        else:
            open_ends += route.original_router.routes  # an included router
    assert len(found) > 30, "the application with its pages"
    return [
        route
        for route in found
        if not any((method, route.path) in ENDS_THE_SESSION for method in route.methods or ())
    ]


def normalized(value: Any) -> Any:
    """Return an answer without times, and without signatures, which depend on the time."""
    if isinstance(value, tuple):
        return tuple((name, normalized(text)) for name, text in value)
    text = re.sub(r"until=\d+&sign=[0-9a-f]+", "until=T&sign=S", value)
    text = re.sub(r"max-age=\d+", "max-age=T", text)
    text = re.sub(r'"hours":[\d.e-]+', '"hours":TIME', text)
    return re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)", "TIME", text)


@pytest.fixture
def make_world(
    postgres_address: str, template_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., World]]:
    """Yield a function that builds worlds, each with a database of its own."""
    with ExitStack() as stack:

        def make(gold_one: uuid.UUID, overlap: int = 1, other: str | None = None) -> World:
            monkeypatch.setattr(gold, "_rng", random.Random(7))
            name = stack.enter_context(fresh_database(postgres_address, template_database))
            database = Database(with_database(postgres_address, name))
            stack.callback(database.close)
            store = FolderStore(tmp_path / name)
            round_id = build(database, store, gold_one, overlap, other)
            settings = Settings(
                home=tmp_path / f"{name}-home",
                database=with_database(postgres_address, name),
                secret="s" * 40,
            )
            app = create_app(
                AppContext(
                    settings, database, store, CeleryQueue(make_app(settings, settings.database))
                )
            )
            app.state.counts = AdaptiveCache(cheap=60)
            headers = {"x-layerloop": "1"}
            client = stack.enter_context(
                TestClient(app, base_url="http://127.0.0.1", headers=headers)
            )
            with database.transaction() as tx:
                token = reviewers.issue_token(tx, reviewers.find_reviewer(tx, "ann"), 5)
            assert client.post("/api/session", json={"token": token}).status_code == 200
            return World(client, app, round_id)

        yield make


def build(
    database: Database, store: FolderStore, gold_one: uuid.UUID, overlap: int, other: str | None
) -> int:
    """Return a round with two gold items, one of them X or Y; another reviewer may have decided both."""
    with database.transaction() as tx:
        round_id = make_round(tx, make_checkpoint(tx))
        home = tx.scalar(
            sa.insert(rounds)
            .values(
                purpose="gold",
                kind="single",
                quota=0,
                policy={"kind": "random", "share": 1.0},
                state="open",
            )
            .returning(rounds.c.id)
        )
        if overlap > 1:
            set_consensus(tx, round_id, ConsensusSettings(ConsensusRule.majority, overlap), "test")
        source = make_samples(tx, store)
        for index, one in enumerate((X, Y, *OTHERS)):
            is_gold = one in {gold_one, OTHERS[0]}
            prompt = Prompt(f"prompt {index}")
            tx.execute(sa.insert(prompts), {"id": prompt.id, "text": prompt.text})
            row = {
                "id": one,
                "round_id": home if is_gold else round_id,
                "prompt_id": prompt.id,
                "seed": index,
            }
            tx.execute(
                sa.insert(candidates), row | {"state": CandidateState.waiting, "propensity": 1.0}
            )
            rgba = image(index, SIDE, SIDE)
            layer = stored(tx, store, rgba)
            tx.execute(
                sa.insert(candidate_layers),
                {"candidate_id": one, "role": "foreground", "sha256": layer.sha256},
            )
            tx.execute(
                sa.insert(screenings),
                {"candidate_id": one, "signals": measure_single(rgba, prompt.text)},
            )
            if is_gold:
                row = {
                    "candidate_id": one,
                    "round_id": round_id,
                    "sample_id": source,
                    "defect": None,
                    "severity": 0,
                }
                tx.execute(sa.insert(gold_table), row)
        gold.set_gold(tx, round_id, gold.GoldSettings(0.5), "test")
        reviewers.add_reviewer(tx, "ann", Role.annotator)
        bob = reviewers.add_reviewer(tx, "bob", Role.annotator).id
    for one in (X, Y):
        if other is None:  # the numbers of decisions count on
            with database.transaction() as tx:
                tx.execute(sa.text("select nextval(pg_get_serial_sequence('decisions', 'id'))"))
        else:
            with database.transaction() as tx:
                key = uuid.uuid5(uuid.NAMESPACE_OID, f"bob {one}")
                decide(tx, bob, one, Verdict(other), key=key, dwell_ms=900)
    return round_id


def make_samples(tx: Any, store: FolderStore) -> uuid.UUID:
    """Several samples; returns one to which neither X nor Y is nearest: no candidate repeats a sample but gold."""
    images = [image(90 + index, SIDE, SIDE) for index in range(6)]
    apart = [
        count_bits(
            fingerprint(image(index, SIDE, SIDE))[:HASH_BYTES],
            [fingerprint(one)[:HASH_BYTES] for one in images],
        )
        for index in (0, 1)
    ]
    farthest = max(range(6), key=lambda index: min(bits[index] - min(bits) for bits in apart))
    assert all(bits[farthest] > min(bits) for bits in apart)
    for index, rgba in enumerate(images):
        layer = stored(tx, store, rgba)
        add_samples(
            tx,
            [NewSample("single", f"seed {index}", "CC0", "test", 0, {LayerRole.foreground: layer})],
        )
    visible = pixel_hash(images[farthest])
    return tx.scalar(sa.text("select id from samples where visible = :v").bindparams(v=visible))


def stored(tx: Any, store: FolderStore, rgba: Any) -> StoredLayer:
    """Return a layer in the store and in the records, with its fingerprint."""
    data = encode_layer(rgba)
    layer = StoredLayer(store.put(data), rgba.shape[1], rgba.shape[0], len(data), pixel_hash(rgba))
    record_layers(tx, [layer])
    tx.execute(
        sa.update(layers)
        .where(layers.c.sha256 == layer.sha256)
        .values(fingerprint=fingerprint(rgba))
    )
    return layer


def live(world: World, verdicts: tuple[str, str]) -> list[Call]:
    """Play the whole life of an annotator with X and Y: every route before and after each thing that they may do."""
    world.look_everywhere()
    world.claim()
    assert {str(X), str(Y)} <= set(world.held), "both are shown, or this test would prove nothing"
    world.look_everywhere()
    for one, verdict in zip((X, Y), verdicts, strict=True):
        world.decide(one, "skip")
        world.look_everywhere()
        world.claim()  # nothing else is left, so what was skipped comes back
        key = world.key()
        world.decide(one, verdict, key)
        world.look_everywhere()
        world.decide(one, verdict, key)
        world.decide(one, verdict)
        world.decide(one, "reject" if verdict == "accept" else "accept")
        world.claim()
        world.call("POST", "/api/review/undo", {"key": world.key()})
        world.look_everywhere()
        world.decide(one, verdict)
        world.call("POST", "/api/review/undo", {"key": world.key()})
        world.call("POST", "/api/review/release", {"candidates": [str(one)]})
        world.look_everywhere()
        world.claim()
        world.decide(one, verdict)
        world.look_everywhere()
    return world.responses


def assert_alike(first: list[Call], second: list[Call]) -> None:
    """Fail with the first response that differs and its request."""
    for index, (one, other) in enumerate(zip(first, second, strict=True)):
        assert one == other, f"request {index}, {one[0]}, is answered differently"


def test_no_response_reveals_which_candidate_is_gold(make_world):
    verdicts = ("accept", "reject")
    assert_alike(live(make_world(gold_one=X), verdicts), live(make_world(gold_one=Y), verdicts))


def test_no_response_reveals_verdicts_of_others(make_world):
    """With an overlap of two: whether another has decided, which verdict it was, and of gold or not."""
    verdicts = ("accept", "reject")
    first = live(make_world(X, overlap=2, other=None), verdicts)
    for gold_one, other in ((X, "accept"), (Y, "reject")):
        assert_alike(first, live(make_world(gold_one, overlap=2, other=other), verdicts))


def test_responses_after_a_round_ends_or_pauses_reveal_nothing(make_world):
    def ending(gold_one: uuid.UUID) -> list[Call]:
        world = make_world(gold_one=gold_one)
        database = world.app.state.context.database
        world.claim()
        world.decide(X, "accept")
        for state in ("pause", "close"):
            from curation.rounds import lifecycle as room

            with database.transaction() as tx:
                getattr(room, f"{state}_round")(tx, world.round, "test")
            world.look_everywhere()
            world.claim()
            world.call("POST", "/api/review/undo", {"key": world.key()})
            world.decide(X, "reject")
            world.decide(Y, "reject")
            world.look_everywhere()
        return world.responses

    assert_alike(ending(X), ending(Y))


def test_gold_shares_no_bytes_with_its_source(database, store):
    """Clean copies have their own pixels, bytes and URLs, and are measured like generated layers."""
    with database.transaction() as tx:
        round_id = make_round(tx)
        drawn = make_candidates(tx, store, round_id, 4, CandidateState.generated)
        screen_candidates(OpenTransaction(tx), store, drawn)
        seeds = [image(200 + index) for index in range(6)]
        for rgba in seeds:
            rgba[rgba[..., 3] == 0] = 0  # as an import stores it
            layer = stored(tx, store, rgba)
            add_samples(
                tx, [NewSample("single", "a seed", "CC0", "test", 0, {LayerRole.foreground: layer})]
            )
        sources = gold_creation.choose_sources(tx, round_id, 40)
        pieces = gold_creation.make_gold(
            store, sources, gold_creation.typical_size(tx, round_id), seed=3
        )
        gold_creation.add_gold(tx, round_id, pieces, "test")
        marks = dict(tx.execute(sa.select(layers.c.sha256, layers.c.fingerprint)).all())
        keys = {frozenset(row) for row in tx.execute(sa.select(screenings.c.signals)).scalars()}
    clean = [one for one in pieces if one.defect is None]
    assert len(clean) >= 8
    known = {encode_layer(rgba) for rgba in seeds}
    visible = {pixel_hash(rgba) for rgba in seeds}
    addresses = [one.layers[LayerRole.foreground].sha256 for one in pieces]
    assert len(set(addresses)) == len(pieces), "no two pieces are one file"
    for one in pieces:
        layer = one.layers[LayerRole.foreground]
        data = store.get(layer.sha256)
        rgba = decode_layer(data)
        assert data not in known
        assert layer.visible not in visible, "not even decoded"
        assert encode_layer(rgba) == data, "encoded as every layer is"
        hidden = rgba[rgba[..., 3] == 0]
        assert not hidden.size or hidden.any(), "colour goes on under alpha 0, as in drawn layers"
        assert marks[layer.sha256] is not None, "a nearest sample can be told with its distance"
        if one.defect is None:
            nearest = min(
                int(abs(rgba.astype(int) - seed)[rgba[..., 3] > 0].max()) for seed in seeds
            )
            assert nearest == 1, "nobody sees a difference"
    assert len(keys) == 1, "the same is measured of all"
