"""What a review batch costs the API with images through it and with presigned images (radosgw).

python -m tests.benchmarks.presigned_images [--size 1024] [--batches 6]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import httpx
from fastapi.testclient import TestClient

from curation.adapters.celery_queue import CeleryQueue, make_app
from curation.adapters.s3 import S3Store
from curation.api.app import create_app
from curation.db import schema
from curation.db.engine import Database
from curation.domain import Role
from curation.review import reviewers
from curation.runtime.context import AppContext
from curation.settings import Settings
from tests.support.factories import make_pairs, make_round, scenes
from tests.support.s3_proxy import s3_proxy
from tests.support.servers import S3Server, postgres, radosgw, wait_for

BATCH = 8


def main() -> None:
    """Measure both ways on the same candidates, and print one line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1_024, help="side of the images in pixels")
    parser.add_argument("--batches", type=int, default=6, help="batches for each way")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="layerloop-bench-") as folder:
        home = Path(folder)
        (home / "ceph").mkdir()
        with (
            radosgw(home / "ceph") as server,
            s3_proxy(server.endpoint) as proxy,
            postgres() as address,
        ):
            os.environ |= {
                "AWS_ACCESS_KEY_ID": server.access_key,
                "AWS_SECRET_ACCESS_KEY": server.secret_key,
            }
            proxy.hidden = frozenset({"last-modified"})
            context = _fill(home, address, server, options.size, 2 * options.batches * BATCH)
            direct = S3Store("bench", "", server.endpoint, proxy.endpoint)
            print(f"a batch of {BATCH} pairs, {options.size} px, load {os.getloadavg()[0]:.1f}")
            for one in (context, replace(context, store=direct)):
                print(_measure(one, options.batches), flush=True)
            context.database.close()


def _fill(home: Path, address: str, server: S3Server, size: int, count: int) -> AppContext:
    database = Database(address)
    schema.migrate(database)
    store = S3Store("bench", "", server.endpoint)
    store.create_bucket()
    with database.transaction() as tx:
        make_pairs(tx, store, make_round(tx, kind="pair"), scenes(count, size))
    settings = Settings(home=home / "home", database=address, secret="a secret of a benchmark" * 2)
    return AppContext(settings, database, store, CeleryQueue(make_app(settings, address)))


def _measure(context: AppContext, batches: int) -> str:
    """Claim batches and load their images as the review page does; return a line of results."""
    app = create_app(context)
    store = context.store
    endpoint = store.public_endpoint if isinstance(store, S3Store) else None
    if endpoint is not None:
        wait_for("the delivery", lambda: app.state.images.layer("0" * 64).startswith(endpoint))
    with context.database.transaction() as tx:
        reviewer = reviewers.add_reviewer(tx, f"reviewer of {endpoint}", Role.annotator)
        token = reviewers.issue_token(tx, reviewer, 60)
    api_bytes = api_requests = store_bytes = store_requests = 0
    api_cpu = 0.0
    headers = {"x-layerloop": "1"}
    with (
        TestClient(app, base_url="http://127.0.0.1", headers=headers) as api,
        httpx.Client() as browser,
    ):
        assert api.post("/api/session", json={"token": token}).status_code == 200
        for _ in range(batches):
            before = time.process_time()
            batch = api.post("/api/review/claims", json={"count": BATCH, "holding": []})
            urls = [
                layer["url"]
                for item in batch.json()["candidates"]
                for layer in item["layers"].values()
            ]
            answers = [batch, *(api.get(url) for url in urls if url.startswith("/"))]
            api_cpu += time.process_time() - before
            direct = [browser.get(url) for url in urls if not url.startswith("/")]
            assert all(answer.status_code == 200 for answer in answers + direct)
            api_requests += len(answers)
            api_bytes += sum(len(answer.content) for answer in answers)
            store_requests += len(direct)
            store_bytes += sum(len(answer.content) for answer in direct)
    return (
        f"{'presigned' if endpoint else 'through the API':<16} "
        f"API {api_requests / batches:5.1f} requests {api_bytes / batches / 1e6:8.3f} MB "
        f"{1_000 * api_cpu / batches:7.1f} CPU-ms | "
        f"store {store_requests / batches:5.1f} requests {store_bytes / batches / 1e6:8.3f} MB"
    )


if __name__ == "__main__":
    main()
