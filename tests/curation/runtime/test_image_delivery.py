"""Whether browsers may read images in the store, asked of radosgw directly and behind a proxy."""

from __future__ import annotations

import json
import uuid

import pytest

from curation.adapters.celery_queue import CeleryQueue, make_app
from curation.adapters.s3 import S3Store
from curation.api.image_urls import ImageUrls
from curation.api.signed_urls import WINDOW, SignedUrls
from curation.errors import Refused
from curation.runtime.context import AppContext
from curation.runtime.image_delivery import (
    ImageDelivery,
    check_delivery,
    check_image_delivery,
    prepare_delivery,
)
from curation.settings import read_settings
from tests.support.s3_proxy import s3_proxy
from tests.support.servers import free_port

ORIGIN = "https://layerloop.example.org"
SHA = "ab" * 32


@pytest.fixture
def store(s3_credentials):
    return make_store(s3_credentials.endpoint, s3_credentials.endpoint)


def make_store(endpoint: str, public_endpoint: str) -> S3Store:
    store = S3Store(f"test-{uuid.uuid4().hex[:12]}", "", endpoint, public_endpoint)
    store.create_bucket()
    return store


def test_the_cors_rule_is_added_beside_those_of_others(store):
    theirs = {"AllowedOrigins": ["https://other.example.org"], "AllowedMethods": ["PUT"]}
    store.client.put_bucket_cors(Bucket=store.bucket, CORSConfiguration={"CORSRules": [theirs]})
    assert "CORS" in check_delivery(store, ORIGIN).problem
    for _ in range(2):
        assert prepare_delivery(store, ORIGIN).works
    rules = store.client.get_bucket_cors(Bucket=store.bucket)["CORSRules"]
    assert sorted((rule["AllowedOrigins"], rule["AllowedMethods"]) for rule in rules) == [
        ([ORIGIN], ["GET"]),
        (["https://other.example.org"], ["PUT"]),
    ]


def test_only_pages_of_the_origin_may_read(store):
    prepare_delivery(store, ORIGIN)
    assert check_delivery(store, ORIGIN).works
    assert "CORS" in check_delivery(store, "https://evil.example.org").problem


def test_write_times_are_seen_where_no_proxy_hides_them(s3_credentials):
    with s3_proxy(s3_credentials.endpoint) as proxy:
        store = make_store(s3_credentials.endpoint, proxy.endpoint)
        found = prepare_delivery(store, ORIGIN)
        assert (found.works, found.hides_write_times) == (True, False)
        proxy.hidden = frozenset({"last-modified"})
        assert prepare_delivery(store, ORIGIN).hides_write_times


def test_a_key_without_the_right_is_told_what_to_allow(store):
    deny = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": ["s3:PutBucketCORS"],
        "Resource": [f"arn:aws:s3:::{store.bucket}"],
    }
    policy = {"Version": "2012-10-17", "Statement": [deny]}
    store.client.put_bucket_policy(Bucket=store.bucket, Policy=json.dumps(policy))
    found = prepare_delivery(store, ORIGIN)
    assert store.bucket in found.problem
    assert f"allow GET from {ORIGIN}" in found.hint


def test_a_bucket_that_anybody_may_read_is_refused(store):
    prepare_delivery(store, ORIGIN)
    allow = {
        "Effect": "Allow",
        "Principal": "*",
        "Action": ["s3:GetObject"],
        "Resource": [f"arn:aws:s3:::{store.bucket}/*"],
    }
    policy = {"Version": "2012-10-17", "Statement": [allow]}
    store.client.put_bucket_policy(Bucket=store.bucket, Policy=json.dumps(policy))
    assert "anybody may read" in check_delivery(store, ORIGIN).problem


def test_an_endpoint_that_does_not_answer_or_fails_is_told(store, s3_credentials):
    store.public_endpoint = f"http://127.0.0.1:{free_port()}"
    assert "does not answer" in check_delivery(store, ORIGIN).problem
    with s3_proxy(s3_credentials.endpoint) as proxy:
        store.public_endpoint = proxy.endpoint
        proxy.fault = lambda _method, _number: "503"
        assert "503" in check_delivery(store, ORIGIN).problem


def test_the_doctor_tells_how_images_are_read(s3_credentials, settings, database):
    def finding(store) -> tuple[bool, str, str]:
        public = settings.model_copy(update={"public_url": f"{ORIGIN}/"})
        queue = CeleryQueue(make_app(public, public.database))
        found = check_image_delivery(AppContext(public, database, store, queue))
        return found.ok, found.message, found.hint

    with s3_proxy(s3_credentials.endpoint) as proxy:
        store = make_store(s3_credentials.endpoint, proxy.endpoint)
        ok, message, hint = finding(store)
        assert not ok
        assert "CORS" in message
        assert ORIGIN in hint
        assert not finding(store)[0], "the doctor only looks"
        prepare_delivery(store, ORIGIN)
        ok, message, hint = finding(store)
        assert ok
        assert "Last-Modified" in message
        assert "proxy" in hint
        proxy.hidden = frozenset({"last-modified"})
        assert finding(store) == (True, f"browsers read them at {proxy.endpoint}", "")
        store.public_endpoint = None
        assert finding(store) == (True, "they pass through the API", "")


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def test_urls_change_once_in_a_window_and_are_equal_in_all_processes(s3_credentials):
    clock = Clock()
    made = []
    for _ in range(2):
        store = S3Store("bucket", "", s3_credentials.endpoint, "https://objects.example.org")
        made.append(ImageUrls(SignedUrls("a secret", clock), store))
        made[-1].set_delivery(ImageDelivery(hides_write_times=True))
    clock.now = 1_000_000 // WINDOW * WINDOW
    first = made[0].layer(SHA, blind=True)
    clock.now += WINDOW - 1
    assert made[0].layer(SHA, blind=True) == made[1].layer(SHA, blind=True) == first
    clock.now += 1
    assert made[0].layer(SHA, blind=True) != first


def test_reviewers_read_through_the_api_where_write_times_are_seen(s3_credentials):
    store = S3Store("bucket", "", s3_credentials.endpoint, "https://objects.example.org")
    urls = ImageUrls(SignedUrls("a secret"), store)
    assert urls.layer(SHA).startswith("/api/layers/"), "nothing is presigned before the check"
    urls.set_delivery(ImageDelivery(hides_write_times=False))
    assert urls.layer(SHA, blind=True).startswith("/api/layers/")
    assert urls.layer(SHA).startswith("https://objects.example.org/bucket/ab/")
    urls.set_delivery(ImageDelivery(hides_write_times=True))
    assert urls.layer(SHA, blind=True).startswith("https://objects.example.org/bucket/ab/")


S3_SETTINGS = {"storage": "s3://bucket", "public_url": "https://layerloop.example.org"}


@pytest.mark.parametrize(
    "endpoint",
    [
        "objects.example.org",
        "ftp://objects.example.org",
        "https://objects.example.org/path",
        "https://user:password@objects.example.org",
        "https://objects.example.org; script-src *",
        "https://*.example.org",
        "https://objects.example.org?x",
        "https://Objects.example.org\r\nx: y",
        "http://objects.example.org",
    ],
)
def test_what_is_no_origin_for_these_pages_is_refused(endpoint):
    with pytest.raises(Refused, match="LAYERLOOP_STORAGE_PUBLIC_ENDPOINT"):
        read_settings(storage_public_endpoint=endpoint, **S3_SETTINGS)


@pytest.mark.parametrize("missing", list(S3_SETTINGS))
def test_an_endpoint_without_a_store_or_a_public_url_is_refused(missing):
    given = {name: value for name, value in S3_SETTINGS.items() if name != missing}
    with pytest.raises(Refused, match="LAYERLOOP_STORAGE_PUBLIC_ENDPOINT"):
        read_settings(storage_public_endpoint="https://objects.example.org", **given)


def test_an_endpoint_has_no_default_port_and_no_slash():
    for given in ("https://objects.example.org/", "https://objects.example.org:443"):
        read = read_settings(storage_public_endpoint=given, **S3_SETTINGS)
        assert read.storage_public_endpoint == "https://objects.example.org"
