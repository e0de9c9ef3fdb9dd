"""Projects, tasks, annotations and users in Label Studio."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, UUID

from curation.db.tables.columns import created_at, metadata

# The projects of a round in Label Studio; a large round has several. All times in these tables
# that the server sets are by its clock.
labeling_projects = sa.Table(
    "labeling_projects",
    metadata,
    sa.Column("id", UUID, primary_key=True),
    sa.Column("server_url", sa.Text, nullable=False),
    sa.Column("round_id", sa.ForeignKey("rounds.id"), nullable=False),
    sa.Column("part", sa.SmallInteger, nullable=False),
    # ID and creation time on the server, which together identify the project.
    sa.Column("remote_id", sa.BigInteger),
    sa.Column("remote_created_at", sa.DateTime(timezone=True)),
    # Also stored on the server; a smaller value there means that a backup was restored.
    sa.Column("restore_mark", sa.BigInteger, nullable=False, server_default="0"),
    # The next reading must be complete.
    sa.Column("full_read_pending", sa.Boolean, nullable=False, server_default=sa.false()),
    # The server's last error on a repair of the project's settings.
    sa.Column("error", sa.Text),
    # All changes before this time, by the server's clock, have been read.
    sa.Column("read_until", sa.DateTime(timezone=True)),
    sa.Column("pushed_at", sa.DateTime(timezone=True)),
    sa.Column("pulled_at", sa.DateTime(timezone=True)),
    # One process at a time synchronizes a project.
    sa.Column("lock_holder", sa.Text),
    sa.Column("locked_until", sa.DateTime(timezone=True)),
    created_at(),
    sa.UniqueConstraint("round_id", "server_url", "part"),
)

# The tasks of these projects, one per candidate.
labeling_tasks = sa.Table(
    "labeling_tasks",
    metadata,
    sa.Column("id", UUID, primary_key=True),
    sa.Column("project_id", sa.ForeignKey("labeling_projects.id"), nullable=False),
    sa.Column("candidate_id", sa.ForeignKey("candidates.id"), nullable=False, index=True),
    sa.Column("state", sa.Text, nullable=False),
    # Tasks that were sent together; the server is searched for the id before a repetition.
    sa.Column("batch", UUID, nullable=False),
    # ID on the server, once the task exists.
    sa.Column("remote_id", sa.BigInteger),
    # When the task had last changed, as of the last reading.
    sa.Column("remote_updated_at", sa.DateTime(timezone=True)),
    # The server shows tasks with the lowest score first.
    sa.Column("score", sa.REAL),
    # Until then the candidate is shown only in Label Studio, where it is next.
    sa.Column("reserved_until", sa.DateTime(timezone=True)),
    # The server's error, if it refused the task.
    sa.Column("refused", sa.Text),
    created_at(),
    sa.CheckConstraint(
        "state in ('sending', 'open', 'annotated', 'removed', 'refused')", name="state"
    ),
)

sa.Index("ix_labeling_tasks_project_id_state", labeling_tasks.c.project_id, labeling_tasks.c.state)

sa.Index(
    "uq_labeling_tasks_live",
    labeling_tasks.c.candidate_id,
    unique=True,
    postgresql_where=labeling_tasks.c.state.in_(["sending", "open"]),
)

# The annotations of these tasks, and the decisions that were made from them.
labeling_annotations = sa.Table(
    "labeling_annotations",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=False), primary_key=True),
    sa.Column("task_id", sa.ForeignKey("labeling_tasks.id"), nullable=False),
    # ID on the server, which a restored server assigns again.
    sa.Column("remote_id", sa.BigInteger, nullable=False),
    # ID of the task on the server, if there are duplicates; null for the first.
    sa.Column("remote_task_id", sa.BigInteger),
    # Who created it, and when; the time is null in rows of older versions.
    sa.Column("author", sa.Text, nullable=False),
    sa.Column("remote_created_at", sa.DateTime(timezone=True)),
    # E-mail address of the user who is responsible for its content: author or last editor.
    sa.Column("email", sa.Text, nullable=False),
    # The content, and when it last changed.
    sa.Column("content", JSONB, nullable=False),
    sa.Column("content_updated_at", sa.DateTime(timezone=True), nullable=False),
    # The decision that was made from it, or why none was; without either it waits for a lease.
    sa.Column("decision_id", sa.ForeignKey("decisions.id")),
    sa.Column("refused", sa.Text),
    # Deleted on the server.
    sa.Column("deleted", sa.Boolean, nullable=False, server_default=sa.false()),
    # Lost on the server, when a backup was restored.
    sa.Column("lost", sa.Boolean, nullable=False, server_default=sa.false()),
    # The note of the task shows that it was refused.
    sa.Column("refusal_shown", sa.Boolean, nullable=False, server_default=sa.false()),
    created_at(),
    # Explicit, since the name by the convention would be longer than 63 characters.
    sa.UniqueConstraint(
        "task_id",
        "remote_id",
        "author",
        "remote_created_at",
        name="uq_labeling_annotations_remote_identity",
    ),
)

sa.Index(
    "ix_labeling_annotations_pending",
    labeling_annotations.c.task_id,
    postgresql_where=sa.text("decision_id is null and refused is null and not deleted"),
)

# Which reviewer a user of Label Studio is.
labeling_users = sa.Table(
    "labeling_users",
    metadata,
    sa.Column("email", sa.Text, primary_key=True),
    sa.Column("reviewer_id", sa.ForeignKey("reviewers.id"), nullable=False),
    created_at(),
)
