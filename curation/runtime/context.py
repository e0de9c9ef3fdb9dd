"""The app context: settings, database, store and queue, with the adapters that the settings name."""

from __future__ import annotations

import fcntl
import importlib
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from curation.adapters import embedded_postgres
from curation.adapters.celery_queue import CeleryQueue, make_app
from curation.adapters.pgmq_schema import install_pgmq
from curation.db import schema
from curation.db.engine import Database
from curation.db.pending_jobs import OncePending
from curation.domain import TrainingRequest
from curation.errors import LayerloopError, Refused
from curation.labeling.previews import HOOK_HEADER, Previews, hook_secret
from curation.labeling.sync import LabelingSync
from curation.object_store import FolderStore
from curation.ports import Embedder, ObjectStore
from curation.settings import EMBEDDED, Settings

if TYPE_CHECKING:
    from curation.adapters.label_studio import LabelStudioBackend


@dataclass(frozen=True)
class AppContext:
    """Everything a command, a request or a job needs."""

    settings: Settings
    database: Database
    store: ObjectStore
    queue: CeleryQueue


@contextmanager
def open_context(settings: Settings) -> Iterator[AppContext]:
    """Open the instance, starting the embedded PostgreSQL if it is ours and asleep, and bringing the tables up to date.

    Whoever leaves an embedded instance last puts its PostgreSQL to sleep: each process holds a shared lock on the home
    while it is inside, and a lock, unlike a counter, is let go even by a process that was killed.
    """
    with _inside(settings):
        address = database_address(settings)
        if settings.queue == EMBEDDED and not settings.embedded:
            install_pgmq(address)
        queue = CeleryQueue(make_app(settings, address))
        database = Database(address)
        database.send = OncePending(database, queue.send)
        try:
            schema.migrate(database)
            yield AppContext(settings, database, open_store(settings), queue)
        finally:
            database.close()


def database_address(settings: Settings) -> str:
    """The address of the PostgreSQL that the settings name; the embedded one is started by asking for it."""
    if settings.embedded:
        return embedded_postgres.start(settings.path("postgres"))
    return settings.database


def open_store(settings: Settings) -> ObjectStore:
    """The object store that the settings name. Raises Refused for an address of another kind."""
    if settings.objects == EMBEDDED:
        return FolderStore(settings.path("objects"))
    address = urlparse(settings.objects)
    if address.scheme == "file":
        return FolderStore(Path(address.path))
    if address.scheme == "s3":
        from curation.adapters.s3 import S3Store

        return S3Store(address.netloc, address.path.strip("/"), settings.objects_endpoint)
    raise Refused(
        f"LAYERLOOP_OBJECTS is {settings.objects!r}",
        "it takes 'embedded', file:///folder or s3://bucket/prefix",
    )


def open_desk(settings: Settings) -> LabelStudioBackend | None:
    """The desk of other software that the settings name; None where people look at the pages alone.

    Raises Refused for an address of another kind, and LayerloopError where its client is not installed.
    """
    address = settings.other_desk
    if address is None:
        return None
    if settings.desk.partition("+")[0] != "label-studio" or urlparse(address).scheme not in {
        "http",
        "https",
    }:
        raise Refused(
            f"LAYERLOOP_DESK is {settings.desk!r}",
            "it takes 'pages' or label-studio+http://host:port",
        )
    if settings.desk_token is None:
        raise Refused(
            "Label Studio wants a token",
            "make one at its page of your account: LAYERLOOP_DESK_TOKEN",
        )
    try:
        from curation.adapters.label_studio import LabelStudioBackend
    except ModuleNotFoundError as error:
        raise LayerloopError(
            f"the client of Label Studio is not installed: {error}",
            "pip install 'layerloop[label-studio]'",
        ) from error
    headers = {"X-Layerloop": "desk", HOOK_HEADER: hook_secret(settings.signing_secret())}
    hook = (f"{settings.public_address}/api/desk/hook", headers)
    return LabelStudioBackend(address, settings.desk_token.get_secret_value(), hook)


@contextmanager
def open_labeling_sync(context: AppContext, holder: str) -> Iterator[LabelingSync | None]:
    """The exchange with the desk of other software, if there is one; `holder` is who speaks with it."""
    desk = open_desk(context.settings)
    if desk is None:
        yield None
        return
    previews = Previews(context.settings.signing_secret(), context.settings.public_address)
    with closing(desk):
        yield LabelingSync(
            context.database, desk, holder, previews.address, context.settings.desk_board_size
        )


def load(dotted: str) -> Any:
    """What a dotted name such as "training.train:train" stands for. Raises LayerloopError where it cannot be had."""
    Settings.calm_libraries()
    module, _, name = dotted.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        hint = "is the package installed with its training part? pip install 'layerloop[train]'"
        raise LayerloopError(f"{dotted} cannot be loaded: {error}", hint) from error


def check_order(order: TrainingRequest, trainer: str) -> None:
    """Refuse an order that the trainer's module knows to be wrong, by its `check_order` if it has one.

    Where the training part is not installed nothing is checked here: the worker does so. Raises NotFound, Refused.
    """
    Settings.calm_libraries()
    module = trainer.partition(":")[0]
    try:
        check = getattr(importlib.import_module(module), "check_order", None)
    except ImportError:
        return
    if check is not None:
        check(order)


def load_embedder(settings: Settings) -> Embedder:
    """The embedder that the settings name, loaded once in a process. Raises NotFound, Refused, LayerloopError."""
    return _open_embedder(settings.embedder, settings.embedder_model, settings.aesthetic)


@cache
def _open_embedder(dotted: str, model: str | None, aesthetic: Path | None) -> Embedder:
    opened: Embedder = load(dotted)(model, aesthetic)
    return opened


@contextmanager
def _inside(settings: Settings) -> Iterator[None]:
    if not settings.embedded:
        yield
        return
    handle = os.open(settings.path(".") / "inside.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(handle, fcntl.LOCK_SH)
    try:
        yield
    finally:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            embedded_postgres.stop(settings.path("postgres"))
        except BlockingIOError:
            pass  # somebody else is still inside
        os.close(handle)
