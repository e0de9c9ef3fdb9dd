"""Saved states of training runs between a worker's folder and the object store.

A trainer saves the states of a stage as folders `<stage>/state-<images>` of its run's folder. Each
is complete when it appears, by a rename, and names the sha256 of its files. The folder is only a
cache: the database names the states from which any worker continues.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
import uuid
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

from curation.checkpoints import run_states
from curation.checkpoints.run_states import SavedState
from curation.errors import Conflict, Corrupt, LayerloopError, NotFound
from curation.jobs.lease_heartbeat import WORKER_ID
from curation.object_store import compute_sha256, fsync_path
from curation.runtime.context import AppContext

log = logging.getLogger("layerloop.run")

SCAN_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 60.0
LAST_UPLOAD_SECONDS = 15.0
"""Seconds that a stopping worker waits for the upload of the last state."""
DOWNLOADS = 4


def restore_states(context: AppContext, run: uuid.UUID, folder: Path) -> None:
    """Fetch the newest saved state of each stage that the run's folder does not have.

    A state whose files are missing or damaged in the object store is skipped with a warning, and
    the one before it is fetched.

    Args:
        context: The app context.
        run: Id of the run.
        folder: The run's folder in this worker's home.

    Raises:
        Unreachable: The object store does not answer.
    """
    with context.database.transaction() as tx:
        states = run_states.list_states(tx, run)
    for stage, newest_first in groupby(states, key=lambda state: state.stage):
        for state in newest_first:
            target = folder / stage / f"state-{state.images:012d}"
            try:
                if not _is_complete(target, state):
                    _download(context, state, target)
                    log.info("%s: fetched the state after %s images", stage, f"{state.images:,}")
                break
            except (NotFound, Corrupt) as error:
                log.warning(
                    "%s: the saved state after %s images is damaged (%s); "
                    "continuing from the one before it",
                    *(stage, f"{state.images:,}", error),
                )


def remove_files(context: AppContext, names: Collection[str]) -> None:
    """Remove files of states that no row names any more; garbage collection removes the others."""
    try:
        context.store.remove(names, datetime.now(UTC))
    except LayerloopError as error:
        log.info("files of former states wait for the garbage collection: %s", error)


class StateUploader:
    """Uploads saved states in a thread of its own, one at a time, the newest first.

    States that are saved faster than they are uploaded are skipped. Errors are logged and tried
    again; they never reach the training.

    Args:
        context: The app context.
        run: Id of the run.
        folder: The run's folder.
        before: Called before a state is recorded: writes the metrics up to it, which a run that
            continues from it does not repeat.
    """

    def __init__(
        self, context: AppContext, run: uuid.UUID, folder: Path, before: Callable[[], None]
    ) -> None:
        self._context, self._run, self._folder, self._before = context, run, folder, before
        self._uploaded: set[tuple[str, int]] = set()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._upload_regularly, name="states", daemon=True)

    @contextmanager
    def uploading(self) -> Iterator[None]:
        """Upload states while the block runs, and the last ones at its end."""
        with self._context.database.transaction() as tx:
            known = run_states.list_states(tx, self._run)
        self._uploaded = {(state.stage, state.images) for state in known}
        self._thread.start()
        try:
            yield
        finally:
            self._done.set()
            self._thread.join(LAST_UPLOAD_SECONDS)

    def upload(self) -> None:
        """Upload the newest state of each stage that was not uploaded yet."""
        for stage, images, path in _newest_states(self._folder):
            if (stage, images) not in self._uploaded:
                with _linked(path) as copy:
                    if copy is not None:
                        self._upload_one(stage, images, copy)
                self._uploaded.add((stage, images))

    def _upload_one(self, stage: str, images: int, folder: Path) -> None:
        context, settings = self._context, self._context.settings
        paths = sorted(folder.iterdir())
        files = {path.name: context.store.put(path) for path in paths}
        size = sum(path.stat().st_size for path in paths)
        self._before()
        # Record the state, and delete the rows of those that it supersedes.
        with context.database.transaction() as tx:
            run_states.record_state(
                tx, self._run, WORKER_ID, SavedState(stage, images, files, size)
            )
            released = run_states.prune_states(
                tx, self._run, settings.run_states_kept, settings.run_states_every_images
            )
        log.info(
            "%s: saved the state after %s images in the object store (%s MB)",
            *(stage, f"{images:,}", f"{size / 1e6:,.1f}"),
        )
        remove_files(context, released)

    def _upload_regularly(self) -> None:
        pause = SCAN_SECONDS
        while True:
            ending = self._done.wait(pause)
            try:
                self.upload()
                pause = SCAN_SECONDS
            except Conflict as conflict:
                log.warning("no state is saved any more: %s", conflict)
                return
            except Exception as error:
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                log.warning("a state was not saved in the object store: %s", error)
            if ending:
                return


def _newest_states(folder: Path) -> list[tuple[str, int, Path]]:
    """Return the newest saved state of each stage in a run's folder."""
    stages = sorted(path for path in folder.iterdir() if path.is_dir())
    newest = [max(stage.glob("state-*"), default=None) for stage in stages]
    return [
        (path.parent.name, int(path.name.removeprefix("state-")), path)
        for path in newest
        if path is not None
    ]


@contextmanager
def _linked(path: Path) -> Iterator[Path | None]:
    """Yield a folder with hard links to a state's files, which the trainer may remove meanwhile.

    None if the trainer has removed it already.
    """
    copy = Path(tempfile.mkdtemp(dir=path.parent, prefix=".upload-"))
    try:
        try:
            for file in path.iterdir():
                os.link(file, copy / file.name)
        except FileNotFoundError:
            yield None
            return
        yield copy
    finally:
        shutil.rmtree(copy, ignore_errors=True)


def _is_complete(folder: Path, state: SavedState) -> bool:
    """Return whether a folder has the files of a state, with their sha256."""
    paths = [folder / name for name in state.files]
    if not all(path.is_file() for path in paths):
        return False
    return [compute_sha256(path) for path in paths] == list(state.files.values())


def _download(context: AppContext, state: SavedState, target: Path) -> None:
    """Fetch a state into a temporary folder, and rename it to its target."""
    target.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(dir=target.parent, prefix=".new-"))

    def fetch(name: str) -> None:
        (new / name).write_bytes(context.store.get(state.files[name]))
        fsync_path(new / name)

    try:
        with ThreadPoolExecutor(DOWNLOADS) as pool:
            list(pool.map(fetch, state.files))
        shutil.rmtree(target, ignore_errors=True)  # a damaged state of the same name
        new.rename(target)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
