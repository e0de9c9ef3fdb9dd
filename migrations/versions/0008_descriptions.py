"""Sources of captions, and the description with which each file was imported.

Revision 0008
"""

import re
import unicodedata
from pathlib import PurePosixPath

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0008"
down_revision = "0014"

# The name of a sample's file: from its row of the import, or from the origin of a reviewed candidate.
NAMED = sa.text("""
    select s.id, s.line::jsonb ->> 'caption' as caption, coalesce(c.origin ->> 'file', f.name) as file
    from samples s
    left join candidates c on c.id = s.candidate_id
    left join lateral (
        select f.name from sample_layers sl join import_files f on f.layer = sl.sha256 and f.outcome <> 'duplicate'
        where sl.sample_id = s.id and sl.role = 'foreground' order by f.name limit 1) f on true
    where s.round = 0 and s.kind = 'single' and coalesce(c.origin ->> 'file', f.name) is not null
        and not exists (select from captions where captions.sample_id = s.id)""")


def upgrade() -> None:
    op.add_column("import_files", sa.Column("described", JSONB()))
    op.create_index("ix_import_files_layer", "import_files", ["layer"])
    op.add_column("samples", sa.Column("caption_source", sa.Text(), nullable=False, server_default="given"))
    op.create_check_constraint(
        op.f("ck_samples_caption_source"), "samples", "caption_source in ('given', 'model', 'file name')"
    )
    op.execute("update samples set caption_source = 'model' where line::jsonb ->> 'captioner' <> ''")
    _mark_file_names()


def _mark_file_names() -> None:
    """Mark captions derived from file names; manifest lines stay, so that a home freezes the same snapshots."""
    connection = op.get_bind()
    found = [row.id for row in connection.execute(NAMED) if row.caption == _caption_from_name(row.file)]
    marking = sa.text("update samples set caption_source = 'file name' where id = any(:ids)")
    for start in range(0, len(found), 5_000):
        connection.execute(marking.bindparams(sa.bindparam("ids", type_=sa.ARRAY(sa.UUID()))), {
            "ids": found[start : start + 5_000]
        })  # fmt: skip


def _caption_from_name(name: str) -> str:
    """Return the caption that version 0.1 derived from a file name; a copy, since migrations do not change."""
    stem = PurePosixPath(name).stem
    seen = "".join(letter if unicodedata.category(letter)[0] != "C" else " " for letter in stem)
    words = re.sub(r"[\W_]+", " ", seen).strip()
    return re.sub(r"[\s\d]+$", "", words)[:200] or words[:200] or "picture"


def downgrade() -> None:
    op.drop_column("samples", "caption_source")
    op.drop_index("ix_import_files_layer", "import_files")
    op.drop_column("import_files", "described")
