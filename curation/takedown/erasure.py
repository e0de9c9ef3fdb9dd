"""Erasure of the rows of samples and candidates: all content goes, what only counts stays.

A candidate keeps its row, number, decisions and gold result, without layers, texts and comments: so
the consensus, the reviewers' statistics and the audit log stay true. Samples, captions, layers and
rows of imports are deleted.
"""

from __future__ import annotations

import uuid

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from curation.db.engine import Database, Transaction
from curation.db.tables import blocked_layers
from curation.takedown.marking import read_items
from curation.takedown.redaction import ALLOW, of_samples, redact_events
from curation.takedown.selectors import blocks


def erase_rows(database: Database, takedown: uuid.UUID) -> None:
    """Delete the content of a takedown's samples and candidates; the call is idempotent.

    Args:
        database: The database.
        takedown: Id of the takedown.
    """
    for block in blocks(read_items(database, takedown, "sample")):
        redact_events(database, takedown, of_samples(block))
    for block in blocks(read_items(database, takedown, "sample")):
        with database.transaction() as tx:
            _erase(tx, "samples", [uuid.UUID(one) for one in block])
    for block in blocks(read_items(database, takedown, "candidate")):
        with database.transaction() as tx:
            _erase(tx, "candidates", [uuid.UUID(one) for one in block])
    with database.transaction() as tx:
        of_it = blocked_layers.c.takedown_id == takedown
        names = list(tx.execute(sa.select(blocked_layers.c.sha256).where(of_it)).scalars())
    for block in blocks(names):
        with database.transaction() as tx:
            for statement in _OF_LAYERS:
                tx.execute(sa.text(statement), {"names": block})


def _erase(tx: Transaction, kind: str, ids: list[uuid.UUID]) -> None:
    tx.connection.exec_driver_sql(ALLOW)
    if kind == "candidates":
        former = list(tx.execute(_bound(_EMPTY_PROMPTS), {"ids": ids}).scalars())
        tx.execute(_bound("delete from prompts where id = any(:ids)"), {"ids": former})
    for statement in _STATEMENTS[kind]:
        tx.execute(_bound(statement), {"ids": ids})


def _bound(statement: str) -> sa.TextClause:
    return sa.text(statement).bindparams(sa.bindparam("ids", type_=ARRAY(UUID)))


# Files of an import go with the layer that they became, so that they are inspected and refused when
# they are imported again.
_FILES = """
delete from import_files where layer in (
    select sha256 from {table} where {owner} = any(:ids)) and outcome <> 'duplicate'"""

_OF_SAMPLES = (
    "delete from captions where sample_id = any(:ids)",
    _FILES.format(table="sample_layers", owner="sample_id"),
    "delete from sample_layers where sample_id = any(:ids)",
    "delete from sample_embeddings where sample_id = any(:ids)",
    "delete from samples where id = any(:ids)",
)

# Each prompt that only removed candidates have is replaced by an empty one, so that candidates of
# one round stay distinct.
_EMPTY_PROMPTS = """
with gone as (
    select distinct c.prompt_id as old from candidates c join prompts p on p.id = c.prompt_id
    where c.id = any(:ids) and p.text <> '' and not exists (
        select from candidates o where o.prompt_id = c.prompt_id and o.state <> 'removed')
        and not exists (select from comparison_items i where i.prompt_id = c.prompt_id)),
paired as materialized (select old, gen_random_uuid() as new from gone),
added as (insert into prompts (id, text) select new, '' from paired returning id)
update candidates c set prompt_id = paired.new from paired where c.prompt_id = paired.old
returning paired.old"""

_OF_CANDIDATES = (
    _FILES.format(table="candidate_layers", owner="candidate_id"),
    "delete from candidate_layers where candidate_id = any(:ids)",
    "delete from screenings where candidate_id = any(:ids)",
    "delete from embeddings where candidate_id = any(:ids)",
    "delete from scores where candidate_id = any(:ids)",
    "update candidates set origin = null, note = null, flags = '{}' where id = any(:ids)",
    "update decisions set comment = '' where candidate_id = any(:ids) and comment <> ''",
    """update labeling_annotations set content = content || '{"comment": ""}'
    where task_id in (select id from labeling_tasks where candidate_id = any(:ids))""",
)

_STATEMENTS = {"samples": _OF_SAMPLES, "candidates": _OF_CANDIDATES}

_SHOWN = "select drawing_id from comparison_layers where sha256 = any(:names)"

_OF_LAYERS = (
    # A comparison keeps its votes; an item without an image is shown to nobody.
    f"""update comparison_items set waiting = false where id in (
        select item_id from comparison_drawings where id in ({_SHOWN}))""",
    f"update comparison_drawings set state = 'removed' where id in ({_SHOWN})",
    f"delete from comparison_layers where drawing_id in ({_SHOWN})",
    "delete from import_files where layer = any(:names)",
    "delete from layer_bands where sha256 = any(:names)",
    "delete from layers where sha256 = any(:names)",
)
