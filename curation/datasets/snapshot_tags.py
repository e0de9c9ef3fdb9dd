"""Tags: names of snapshots that people choose, and that can be moved."""

from __future__ import annotations

import re
from typing import Annotated

import sqlalchemy as sa
from pydantic import AfterValidator, WithJsonSchema
from sqlalchemy.dialects.postgresql import insert

from curation.db.engine import Transaction
from curation.db.tables import tags
from curation.errors import Refused

TAG_RULE = (
    "a tag begins with a letter, continues with letters, digits, '-', '_' and '.', has at most 100 "
    "characters, and does not look like an id (eight or more of the digits 0-9 and letters a-f)"
)
"""The rule for names of tags, for error messages."""

_TAG_PATTERN = r"(?![0-9A-Fa-f]{8,100}$)[A-Za-z][A-Za-z0-9._-]{0,99}"
_TAG = re.compile(_TAG_PATTERN)


def check_tag(name: str) -> None:
    """Raise Refused if a tag may not have this name; see TAG_RULE."""
    if not _TAG.fullmatch(name):
        raise Refused(f"{name[:100]!r} is not a valid name of a tag", TAG_RULE)


def _valid_tag(name: str) -> str:
    try:
        check_tag(name)
    except Refused as error:
        raise ValueError(f"{error.message}: {error.hint}") from error
    return name


TagName = Annotated[
    str,
    AfterValidator(_valid_tag),
    WithJsonSchema({"type": "string", "pattern": f"^{_TAG_PATTERN}$", "title": "Tag"}),
]
"""The type of a tag's name in the API; its schema has the same rule as `check_tag`."""


def tag_snapshot(tx: Transaction, name: str, snapshot: str, actor: str) -> None:
    """Create a tag for a snapshot, or move an existing tag; the event log has the history.

    Args:
        tx: The transaction.
        name: Name of the tag.
        snapshot: Id of the snapshot.
        actor: Name of the person, for the event log.

    Raises:
        Refused: The name is invalid.
    """
    check_tag(name)
    values = {"name": name, "snapshot_id": snapshot, "created_at": sa.func.now()}
    tx.execute(
        insert(tags).values(values).on_conflict_do_update(index_elements=["name"], set_=values)
    )
    tx.log(actor, "tag moved", f"tag {name}", snapshot=snapshot)
