"""A stand-in for the Hugging Face Hub: its HTTP API for repositories, on loopback and in memory.

It keeps what was pushed: regular files in commits (NDJSON), others by Git LFS's batch protocol
(upload, verify). It serves revisions, trees in pages, and files with ETags and ranges. The client
is the real one, without Xet.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_secretTokenOfTheTest"
LARGE = (".png", ".webp", ".safetensors", ".parquet", ".tar")
"""Endings of files that the Hub keeps by Git LFS."""
PAGE = 40
"""Entries of a page of a tree."""


@dataclass
class Repository:
    """A repository: its commits, each with all its files, and its tags."""

    private: bool = False
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.commit({".gitattributes": b"*.png filter=lfs\n"})

    @property
    def files(self) -> dict[str, bytes]:
        """The files of the newest commit."""
        return self.commits[-1][1]

    def commit(self, files: dict[str, bytes]) -> str:
        name = hashlib.sha1(f"{len(self.commits)}{sorted(files)}".encode()).hexdigest()
        self.commits.append((name, files))
        return name

    def find(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        wanted = self.tags.get(revision, revision)
        if wanted == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit[0] == wanted), None)


@dataclass
class Failure:
    """An answer in place of the right one, to requests whose method and path have a text."""

    part: str
    status: int
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)


class HubServer:
    """The state of the stand-in: repositories, uploaded objects, and what was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.repositories: dict[str, Repository] = {}  # by "datasets/owner/name"
        self.objects: dict[str, bytes] = {}
        self.verified: set[str] = set()
        self.requests: list[str] = []
        self.failures: list[Failure] = []
        self.commit_sizes: list[int] = []
        self.uploads: list[str] = []
        # Uploads from this number on wait until `resume` is set, with `waiting` set meanwhile.
        self.pause_at: int | None = None
        self.waiting, self.resume = threading.Event(), threading.Event()
        self.lock = threading.RLock()

    @property
    def environment(self) -> dict[str, str]:
        """Settings with which the client talks to this server only."""
        return {"HF_ENDPOINT": self.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}

    def count(self, part: str) -> int:
        """Return the number of requests whose method and path have a text."""
        return sum(part in request for request in self.requests)


class _Handler(BaseHTTPRequestHandler):
    """Routes of the Hub that the client asks."""

    hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._handle("GET")

    def do_HEAD(self) -> None:
        self._handle("HEAD")

    def do_POST(self) -> None:
        self._handle("POST")

    def do_PUT(self) -> None:
        self._handle("PUT")

    def log_message(self, *_: object) -> None:
        pass

    def _handle(self, method: str) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        body = self._body()
        with self.hub.lock:
            self.hub.requests.append(f"{method} {path}")
            failure = next((f for f in self.hub.failures if f.part in f"{method} {path}"), None)
            if failure is not None:
                failure.times -= 1
                if not failure.times:
                    self.hub.failures.remove(failure)
        if failure is not None:
            self._answer(failure.status, {"error": f"planned {failure.status}"}, failure.headers)
            return
        for pattern, handle in _ROUTES:
            found = re.fullmatch(pattern, f"{method} {path}")
            if found:
                handle(self, found.groupdict(), body, parse_qs(parts.query))
                return
        self._answer(404, {"error": f"no route {method} {path}"})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _answer(
        self, status: int, value: Any = None, headers: dict[str, str] | None = None
    ) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        headers = dict(headers or {})
        self.send_response(status)
        self.send_header("Content-Length", headers.pop("Content-Length", str(len(data))))
        for name, text in headers.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _authorized(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self._answer(401, {"error": "Invalid username or password."})
        return False

    def _repository(self, found: dict[str, str]) -> Repository | None:
        kind = (found.get("kind") or "models").rstrip("/")
        repository = self.hub.repositories.get(f"{kind}/{found['repo']}")
        if repository is None:
            self._answer(404, {"error": "not found"}, {"X-Error-Code": "RepoNotFound"})
        elif repository.private and not self._authorized():
            return None
        return repository

    def _commit_of(self, found: dict[str, str]) -> tuple[str, dict[str, bytes]] | None:
        repository = self._repository(found)
        if repository is None:
            return None
        commit = repository.find(found.get("revision") or "main")
        if commit is None:
            self._answer(404, {"error": "not found"}, {"X-Error-Code": "RevisionNotFound"})
        return commit

    def create(self, _found: dict[str, str], body: bytes, _query: Any) -> None:
        if not self._authorized():
            return
        wanted = json.loads(body)
        kind = f"{wanted.get('type', 'model')}s"
        repo = f"{wanted['organization']}/{wanted['name']}"
        prefix = "" if kind == "models" else f"{kind}/"
        url = {"url": f"{self.hub.url}/{prefix}{repo}"}
        if f"{kind}/{repo}" in self.hub.repositories:
            self._answer(409, {"error": "You already created this repository"} | url)
            return
        is_private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        self.hub.repositories[f"{kind}/{repo}"] = Repository(is_private)
        self._answer(200, url)

    def validate(self, _found: dict[str, str], body: bytes, _query: Any) -> None:
        content = json.loads(body)["content"]
        front = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        errors = [] if front and "license:" in front[1] else [{"message": "no front matter"}]
        self._answer(400 if errors else 200, {"errors": errors, "warnings": []})

    def info(self, found: dict[str, str], _body: bytes, _query: Any) -> None:
        commit = self._commit_of(found)
        if commit is not None:
            self._answer(200, {"id": found["repo"], "sha": commit[0], "private": False})

    def tree(self, found: dict[str, str], _body: bytes, query: dict[str, list[str]]) -> None:
        commit = self._commit_of(found)
        if commit is None:
            return
        files = sorted(commit[1].items())
        begin = int(query.get("cursor", ["0"])[0])
        rows = [_entry(path, data) for path, data in files[begin : begin + PAGE]]
        headers = {}
        if begin + PAGE < len(files):
            address = f"{self.hub.url}{urlsplit(self.path).path}?recursive=true"
            headers["Link"] = f'<{address}&cursor={begin + PAGE}>; rel="next"'
        self._answer(200, rows, headers)

    def preupload(self, found: dict[str, str], body: bytes, _query: Any) -> None:
        if not self._authorized():
            return
        commit = self._commit_of(found)
        if commit is None:
            return
        rows = []
        for file in json.loads(body)["files"]:
            present = commit[1].get(file["path"])
            is_large = file["path"].endswith(LARGE)
            row = {"path": file["path"], "shouldIgnore": False}
            row["uploadMode"] = "lfs" if is_large else "regular"
            if present is not None:
                row["oid"] = _sha256(present) if is_large else _blob_id(present)
            rows.append(row)
        self._answer(200, {"files": rows})

    def batch(self, found: dict[str, str], body: bytes, _query: Any) -> None:
        if not self._authorized() or self._repository(found) is None:
            return
        rows: list[dict[str, Any]] = []
        for item in json.loads(body)["objects"]:
            row: dict[str, Any] = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.hub.verified:
                row["actions"] = {
                    "upload": {"href": f"{self.hub.url}/objects/{item['oid']}"},
                    "verify": {"href": f"{self.hub.url}/objects/verify"},
                }
            rows.append(row)
        self._answer(200, {"transfer": "basic", "objects": rows})

    def upload(self, found: dict[str, str], body: bytes, _query: Any) -> None:
        with self.hub.lock:
            self.hub.uploads.append(found["oid"])
            is_paused = self.hub.pause_at is not None and len(self.hub.uploads) > self.hub.pause_at
        if is_paused:
            self.hub.waiting.set()
            self.hub.resume.wait(60)
            return
        if _sha256(body) != found["oid"]:
            self._answer(400, {"error": "the content does not match its name"})
            return
        self.hub.objects[found["oid"]] = body
        self._answer(200)

    def verify(self, _found: dict[str, str], body: bytes, _query: Any) -> None:
        item = json.loads(body)
        stored = self.hub.objects.get(item["oid"])
        if stored is None or len(stored) != item["size"]:
            self._answer(404, {"error": "no such object"})
            return
        self.hub.verified.add(item["oid"])
        self._answer(200)

    def commit(self, found: dict[str, str], body: bytes, _query: Any) -> None:
        if not self._authorized():
            return
        repository = self._repository(found)
        if repository is None:
            return
        files = dict(repository.files)
        lines = [json.loads(line) for line in body.splitlines()]
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.verified:
                    self._answer(400, {"error": f"{value['path']} was not uploaded"})
                    return
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif files.pop(value["path"], None) is None:
                self._answer(404, {"error": "A file with this name doesn't exist"})
                return
        self.hub.commit_sizes.append(len(lines) - 1)
        name = repository.commit(files)
        prefix = "" if found["kind"] == "models" else f"{found['kind']}/"
        url = f"{self.hub.url}/{prefix}{found['repo']}/commit/{name}"
        self._answer(200, {"commitUrl": url, "commitOid": name})

    def resolve(self, found: dict[str, str], _body: bytes, _query: Any) -> None:
        commit = self._commit_of(found)
        if commit is None:
            return
        headers = {"X-Repo-Commit": commit[0], "Accept-Ranges": "bytes"}
        data = commit[1].get(found["path"])
        if data is None:
            self._answer(404, {"error": "no file"}, headers | {"X-Error-Code": "EntryNotFound"})
            return
        etag = _sha256(data) if found["path"].endswith(LARGE) else _blob_id(data)
        headers |= {"ETag": f'"{etag}"', "X-Linked-Etag": f'"{etag}"'}
        headers["X-Linked-Size"] = str(len(data))
        begin = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if begin is None:
            self._answer(200, data, headers)
            return
        start = int(begin[1])
        headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._answer(206, data[start:], headers)


_API = r"/api/(?P<kind>datasets|models)/(?P<repo>[^/]+/[^/]+)"
_FILES = r"/(?P<kind>datasets/)?(?P<repo>[^/]+/[^/]+?)"
_ROUTES = (
    (r"POST /api/repos/create", _Handler.create),
    (r"POST /api/validate-yaml", _Handler.validate),
    (rf"GET {_API}(/revision/(?P<revision>.+))?", _Handler.info),
    (rf"GET {_API}/tree/(?P<revision>[^/]+)/?", _Handler.tree),
    (rf"POST {_API}/preupload/(?P<revision>.+)", _Handler.preupload),
    (rf"POST {_API}/commit/(?P<revision>.+)", _Handler.commit),
    (r"PUT /objects/(?P<oid>[0-9a-f]{64})", _Handler.upload),
    (r"POST /objects/verify", _Handler.verify),
    (rf"POST {_FILES}\.git/info/lfs/objects/batch", _Handler.batch),
    (rf"(GET|HEAD) {_FILES}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.resolve),
)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0%b" % (len(data), data)).hexdigest()


def _entry(path: str, data: bytes) -> dict[str, Any]:
    row: dict[str, Any] = {"type": "file", "path": path, "size": len(data)}
    row["oid"] = _blob_id(data)
    if path.endswith(LARGE):
        row["lfs"] = {"oid": _sha256(data), "size": len(data), "pointerSize": 130}
    return row


@contextmanager
def serve_hub() -> Iterator[HubServer]:
    """Serve a stand-in on a free port."""
    hub = HubServer()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.resume.set()
        server.shutdown()
        thread.join(10)
        server.server_close()
