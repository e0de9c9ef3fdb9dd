"""Layers are served by signed URLs for a limited time, and no other object of the store is served."""

from __future__ import annotations

import io

import pytest
import sqlalchemy as sa
from PIL import Image

from curation.adapters.snapshot_sources import pack_folder
from curation.api.signed_urls import WINDOW, SignedUrls
from curation.db.tables import candidate_layers, checkpoints, layers
from curation.images.codec import decode_layer, to_png
from curation.takedown.execution import TakedownPlace, take_down
from curation.takedown.selectors import Selector
from tests.support.factories import make_checkpoint

SHA = "ab" * 32


def first_layer(database) -> str:
    with database.transaction() as tx:
        return str(tx.scalar(sa.select(layers.c.sha256).order_by(layers.c.sha256)))


def test_a_layer_is_served_as_stored_and_as_png(client, app, database, store, round_id):
    sha = first_layer(database)
    answer = client.get(app.state.links.address(sha))
    assert answer.status_code == 200
    assert answer.content == store.get(sha)
    assert answer.headers["content-type"] == "image/webp"
    assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert answer.headers["x-content-type-options"] == "nosniff"
    private, age, immutable = answer.headers["cache-control"].split(", ")
    assert (private, immutable) == ("private", "immutable")
    assert WINDOW - 5 <= int(age.removeprefix("max-age=")) <= 2 * WINDOW
    png = client.get(app.state.links.address(sha, "png"))
    assert png.headers["content-type"] == "image/png"
    assert png.content == to_png(store.get(sha))
    assert (decode_layer(png.content) == decode_layer(answer.content)).all()


def test_a_cached_layer_is_answered_with_304(client, app, database, round_id):
    address = app.state.links.address(first_layer(database))
    etag = client.get(address).headers["etag"]
    again = client.get(address, headers={"if-none-match": etag})
    assert (again.status_code, again.content) == (304, b"")


def test_a_signature_covers_layer_format_and_expiry(client, app, database, round_id):
    sha = first_layer(database)
    address = app.state.links.address(sha)
    until = address.partition("until=")[2].partition("&")[0]
    changed = [
        address.replace(sha, SHA),
        address.replace(".webp", ".png"),
        address.replace(until, str(int(until) + WINDOW)),
        address[:-1] + ("0" if address[-1] != "0" else "1"),
        address.partition("&sign=")[0] + "&sign=",
        address.partition("&sign=")[0] + "&sign=%C3%A9",
    ]
    for wrong in changed:
        assert client.get(wrong).status_code == 404
    assert client.get(address.partition("?")[0]).status_code == 422
    assert client.get(address.replace(sha, "../" * 10 + "secret")).status_code in {404, 422}


def test_a_signed_url_is_stable_for_a_while_and_then_expires():
    now = [1_000_000.0 * WINDOW]
    links = SignedUrls("secret", clock=lambda: now[0])
    first = links.address(SHA)
    now[0] += WINDOW - 1
    assert links.address(SHA) == first, "browsers keep what they have"
    sign = first.partition("sign=")[2]
    until = int(first.partition("until=")[2].partition("&")[0])
    assert links.seconds_left(SHA, "webp", until, sign) == WINDOW + 1
    now[0] += 1
    assert links.address(SHA) != first
    now[0] += WINDOW
    assert links.seconds_left(SHA, "webp", until, sign) == 0
    assert SignedUrls("other").seconds_left(SHA, "webp", 2**40, sign) == 0


def test_nothing_else_of_the_store_is_served_even_with_a_genuine_signature(client, app, store):
    secret = store.put(b"a manifest, weights, anything")
    for form in ("webp", "png"):
        answer = client.get(app.state.links.address(secret, form))
        assert (answer.status_code, answer.json()["error"]["message"]) == (
            404,
            "there is no such image",
        )


@pytest.fixture
def sheet(database, store) -> str:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(out, "PNG")
    return keep_sheet(database, store.put(out.getvalue()))


def keep_sheet(database, sha: str) -> str:
    with database.transaction() as tx:
        checkpoint = make_checkpoint(tx)
        tx.execute(
            sa.update(checkpoints).where(checkpoints.c.id == checkpoint).values(sample_grid=sha)
        )
    return sha


def test_the_sample_grid_of_a_checkpoint_is_served_as_png_only(client, app, sheet, store):
    answer = client.get(app.state.links.address(sheet, "png"))
    assert (answer.headers["content-type"], answer.content) == ("image/png", store.get(sheet))
    assert client.get(app.state.links.address(sheet)).status_code == 404


def test_a_sample_grid_that_is_no_png_is_not_served(client, app, database, store):
    page = keep_sheet(database, store.put(b"<html><script>alert(1)</script>"))
    answer = client.get(app.state.links.address(page, "png"))
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/json"


def test_a_layer_whose_bytes_are_gone_is_not_found(client, app, database, store, round_id):
    sha = first_layer(database)
    (store.folder / sha[:2] / sha[2:]).unlink()
    assert client.get(app.state.links.address(sha)).status_code == 404


def test_a_thumbnail_is_not_served_from_memory_after_a_takedown(
    client, app, database, store, round_id
):
    sha = first_layer(database)
    address = app.state.links.address(sha, side=16)
    assert client.get(address).status_code == 200
    with database.transaction() as tx:
        owner = sa.select(candidate_layers.c.candidate_id)
        candidate = tx.scalar(owner.where(candidate_layers.c.sha256 == sha))
    place = TakedownPlace(database, store, "secret" * 8, "test", pack_folder)
    take_down(place, Selector("sample", (str(candidate),)), "", lambda _: None)
    assert client.get(address).status_code == 404
    assert client.get(app.state.links.address(sha)).status_code == 404
