"""The app context: settings, database, object store and queue, with the configured adapters."""

from __future__ import annotations

import fcntl
import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from secrets import token_urlsafe
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from curation.db import schema, secrets
from curation.db.engine import Database
from curation.db.pending_jobs import DeduplicatingSender
from curation.domain import Job, TrainingRequest
from curation.errors import LayerloopError, Refused
from curation.labeling.previews import WEBHOOK_HEADER, PreviewUrls, webhook_secret
from curation.object_store import FolderStore
from curation.ports import Embedder, ObjectStore
from curation.settings import Settings
from curation.storage_settings import EMBEDDED
from curation.store_inventory import InstanceStore

if TYPE_CHECKING:
    from curation.adapters.celery_queue import CeleryQueue
    from curation.adapters.label_studio import LabelStudioBackend
    from curation.labeling.sync import LabelingSync


class DeferredQueue:
    """The queue of the settings, opened at the first use.

    Loading Celery takes longer than most commands, which send no jobs.

    Args:
        settings: The settings of the instance.
        address: The address of the database.
    """

    def __init__(self, settings: Settings, address: str) -> None:
        self._settings = settings
        self._address = address

    @cached_property
    def _queue(self) -> CeleryQueue:
        from curation.adapters.celery_queue import CeleryQueue, make_app

        return CeleryQueue(make_app(self._settings, self._address))

    def send(self, job: Job) -> bool:
        """Send a job, and return whether it was sent; see CeleryQueue."""
        return self._queue.send(job)

    def check(self) -> None:
        """Check that the queue answers. Raises Unreachable."""
        self._queue.check()

    def probe(self) -> float:
        """Send a message and receive it; return the seconds that it took. Raises Unreachable."""
        return self._queue.probe()


TrainerJoin = Callable[[TrainingRequest, ObjectStore, Path, int], bool]
"""Trains as another machine of a number from 1; returns whether the training ended in order."""


@dataclass(frozen=True)
class AppContext:
    """The dependencies of a command, a request or a job."""

    settings: Settings
    database: Database
    store: InstanceStore
    queue: DeferredQueue | CeleryQueue

    def signing_secret(self) -> str:
        """Return the secret that signs cookies and URLs, the same in all processes.

        It is LAYERLOOP_SECRET if that is set. Otherwise an embedded instance keeps it in its home,
        and an instance on a server in its database.

        Raises:
            Refused: Other processes of the instance sign with another secret.
            LayerloopError: The secret is too short, or other users can read its file.
        """
        settings = self.settings
        if settings.embedded:
            return settings.signing_secret()
        if settings.secret is not None:
            own = settings.signing_secret()
            with self.database.transaction() as tx:
                secrets.check_secret(tx, own)
            return own
        # A secret in the home, of a former version, stays valid.
        former = (settings.home / "secret").exists()
        proposed = settings.signing_secret() if former else token_urlsafe(32)
        with self.database.transaction() as tx:
            return secrets.shared_secret(tx, proposed)


@contextmanager
def open_context(settings: Settings) -> Iterator[AppContext]:
    """Open the instance; an embedded PostgreSQL is started if necessary, and its tables migrated.

    The tables of a server are never migrated here, since other machines may run another version.
    The last process that leaves an embedded instance stops its PostgreSQL. Each process holds a
    shared lock on the home; unlike a counter, a lock is released even when a process is killed.

    Args:
        settings: The settings of the instance.

    Yields:
        The app context.

    Raises:
        SchemaMismatch: The server's tables are not those that this version needs.
        Unreachable: The database does not answer.
    """
    with _home_lock(settings):
        address = database_address(settings)
        queue = DeferredQueue(settings, address)
        database = Database(address)
        database.send = DeduplicatingSender(database, queue.send)
        try:
            if settings.embedded:
                schema.upgrade(database)
            else:
                schema.check(database)
                # Jobs are queued in the database by default.
                if settings.queue == EMBEDDED:
                    schema.check_queue(database)
            yield AppContext(settings, database, open_store(settings), queue)
        finally:
            database.close()


@contextmanager
def open_database(settings: Settings) -> Iterator[Database]:
    """Open only the database, with any schema, for upgrades and checks.

    Args:
        settings: The settings of the instance.

    Yields:
        The database, which sends no jobs.
    """
    with _home_lock(settings):
        database = Database(database_address(settings))
        try:
            yield database
        finally:
            database.close()


def upgrade_database(settings: Settings) -> schema.SchemaState:
    """Migrate the tables of the settings' database, and install its queue; repeatable.

    Two upgrades at once are safe: one waits for the other.

    Returns:
        The state of the schema before.

    Raises:
        SchemaMismatch: A newer version has upgraded the database.
        Refused: The database's user lacks a permission.
        Unreachable: The database does not answer.
    """
    with open_database(settings) as database:
        state = schema.upgrade(database)
        # The embedded server installs the queue itself when it starts.
        if settings.queue == EMBEDDED and not settings.embedded:
            from curation.adapters.pgmq_schema import install_pgmq

            install_pgmq(database_address(settings))
        return state


def database_address(settings: Settings) -> str:
    """Return the address of the PostgreSQL of the settings; the embedded one is started for it."""
    if settings.embedded:
        from curation.adapters import embedded_postgres

        return embedded_postgres.start_server(settings.path("postgres"))
    return settings.database


def open_store(settings: Settings) -> InstanceStore:
    """Return the object store of the settings. Raises Refused for an unsupported address."""
    if settings.storage == EMBEDDED:
        return FolderStore(settings.path("objects"))
    address = urlparse(settings.storage)
    if address.scheme == "file":
        return FolderStore(Path(address.path))
    if address.scheme == "s3":
        from curation.adapters.s3 import S3Store

        return S3Store(
            address.netloc,
            address.path.strip("/"),
            settings.storage_endpoint,
            settings.storage_public_endpoint,
        )
    raise Refused(
        f"LAYERLOOP_STORAGE is {settings.storage!r}",
        "it takes 'embedded', file:///folder or s3://bucket/prefix",
    )


def open_labeling_backend(settings: Settings, secret: str) -> LabelStudioBackend | None:
    """Connect to the Label Studio of the settings.

    Args:
        settings: The settings.
        secret: The secret that signs cookies and URLs; webhooks are authenticated with it.

    Returns:
        The backend; None if only the review page is used.

    Raises:
        Refused: The address is unsupported, or there is no token.
        LayerloopError: The client of Label Studio is not installed.
    """
    address = settings.labeling_url
    if address is None:
        return None
    if settings.labeling.partition("+")[0] != "label-studio" or urlparse(address).scheme not in {
        "http",
        "https",
    }:
        raise Refused(
            f"LAYERLOOP_LABELING is {settings.labeling!r}",
            "it takes 'pages' or label-studio+http://host:port",
        )
    if settings.labeling_token is None:
        raise Refused(
            "Label Studio needs a token",
            "create one on its account page and set LAYERLOOP_LABELING_TOKEN",
        )
    try:
        from curation.adapters.label_studio import LabelStudioBackend
    except ModuleNotFoundError as error:
        raise LayerloopError(
            f"the client of Label Studio is not installed: {error}",
            "pip install 'layerloop[label-studio]'",
        ) from error
    # Label Studio sends these headers with its webhook calls; the secret one authenticates them.
    # A webhook is recognized by the names of its headers, so these stay as they are.
    headers = {"X-Layerloop": "desk", WEBHOOK_HEADER: webhook_secret(secret)}
    webhook = (f"{settings.public_address}/api/labeling/webhook", headers)
    return LabelStudioBackend(address, settings.labeling_token.get_secret_value(), webhook)


@contextmanager
def open_labeling_sync(context: AppContext, holder: str) -> Iterator[LabelingSync | None]:
    """Open the synchronization with Label Studio.

    Args:
        context: The app context.
        holder: The name under which projects are locked while they are synchronized.

    Yields:
        The synchronization; None if only the review page is used.
    """
    if context.settings.labeling_url is None:
        yield None
        return
    secret = context.signing_secret()
    backend = open_labeling_backend(context.settings, secret)
    if backend is None:
        yield None
        return
    from curation.labeling.sync import LabelingSync

    previews = PreviewUrls(secret, context.settings.public_address)
    with closing(backend):
        yield LabelingSync(
            context.database,
            backend,
            holder,
            previews.sign_url,
            context.settings.labeling_project_size,
        )


def load_object(dotted: str) -> Any:
    """Import the object of a dotted name such as "training.train:train".

    Raises:
        LayerloopError: It cannot be imported.
    """
    Settings.quiet_third_party()
    module, _, name = dotted.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        hint = "is the package installed with its training part? pip install 'layerloop[train]'"
        raise LayerloopError(f"{dotted} cannot be loaded: {error}", hint) from error


def check_training_request(request: TrainingRequest, trainer: str) -> None:
    """Check a training request with `check_request` of the trainer's module, if it has one.

    Args:
        request: The training request.
        trainer: The dotted name of the trainer.

    Raises:
        NotFound: A preset or file does not exist.
        Refused: The request is invalid.
    """
    # Without the training package nothing is checked here; the worker checks it later.
    Settings.quiet_third_party()
    module = trainer.partition(":")[0]
    try:
        check = getattr(importlib.import_module(module), "check_request", None)
    except ImportError:
        return
    if check is not None:
        check(request)


def load_trainer_join(trainer: str) -> TrainerJoin:
    """Return the function `join` of the trainer's module, which trains as another machine.

    Args:
        trainer: The dotted name of the trainer.

    Raises:
        LayerloopError: The trainer cannot be imported, or does not train on several machines.
    """
    join: TrainerJoin = load_object(f"{trainer.partition(':')[0]}:join")
    return join


def load_embedder(settings: Settings) -> Embedder:
    """Return the embedder of the settings, loaded once per process.

    Raises:
        NotFound: Its weights do not exist.
        Refused: Its settings are invalid.
        LayerloopError: It cannot be imported.
    """
    return _open_embedder(settings.embedder, settings.embedder_model, settings.aesthetic)


@cache
def _open_embedder(dotted: str, model: str | None, aesthetic: Path | None) -> Embedder:
    embedder: Embedder = load_object(dotted)(model, aesthetic)
    return embedder


@contextmanager
def _home_lock(settings: Settings) -> Iterator[None]:
    """Hold a shared lock on an embedded home; the last holder stops its PostgreSQL."""
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
            from curation.adapters import embedded_postgres

            embedded_postgres.stop_server(settings.path("postgres"))
        except BlockingIOError:
            pass  # another process still uses the database
        os.close(handle)
