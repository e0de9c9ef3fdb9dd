"""Open an existing instance from Python, as commands do from a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from curation.errors import NotFound
from curation.runtime.context import AppContext, open_context
from curation.settings import Settings, read_settings


def instance_settings(home: Path | str | None) -> Settings:
    """Return the settings of the environment, with another home folder if one is given.

    Raises:
        NotFound: The instance keeps its database in a home folder that does not exist.
    """
    settings = read_settings(**({} if home is None else {"home": Path(home)}))
    if settings.embedded and not settings.home.is_dir():
        # A reader must not create an empty instance where a path is misspelt.
        raise NotFound(f"there is no home {settings.home}", "pass home=, or set LAYERLOOP_HOME")
    return settings


@contextmanager
def open_instance(home: Path | str | None) -> Iterator[AppContext]:
    """Open the instance in a home folder and close it at the end of the block.

    Raises:
        NotFound: The home folder does not exist.
    """
    with open_context(instance_settings(home)) as instance:
        yield instance
