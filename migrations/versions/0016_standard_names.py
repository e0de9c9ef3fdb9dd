"""Tables, columns and stored values get the field's standard names; no row is lost.

Revision 0016
"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0009"

TABLES = {
    "heads": "acceptance_models",
    "scalings": "top_n_runs",
    "scaled": "top_n_members",
    "desk_boards": "labeling_projects",
    "desk_postings": "labeling_tasks",
    "desk_answers": "labeling_annotations",
    "desk_people": "labeling_users",
}

# By the new name of the table; "at" is in the list of its own below.
COLUMNS = {
    "reviewers": {"access": "role"},
    "checkpoints": {"sheet": "sample_grid"},
    "rounds": {"desk": "labeling"},
    "screenings": {"sentence": "message"},
    "acceptance_models": {"teacher": "label_source", "numbers": "parameters", "figures": "metrics"},
    "scores": {"head_id": "acceptance_model_id", "chance": "probability"},
    "gates": {"head_id": "acceptance_model_id", "look": "interim_look", "figures": "metrics"},
    "top_n_runs": {"head_id": "acceptance_model_id", "least": "min_share", "figures": "metrics"},
    "top_n_members": {"scaling_id": "top_n_run_id"},
    "decisions": {"desk": "channel"},
    "aggregations": {"sound": "acceptable_share"},
    "import_files": {"sentence": "message", "described": "description"},
    "caption_runs": {"again": "recaption", "most": "max_samples", "tokens": "max_tokens"},
    "labeling_projects": {
        "desk": "server_url", "number": "remote_id", "made_at": "remote_created_at", "mark": "restore_mark",
        "reread": "full_read_pending", "trouble": "error", "put_up_at": "pushed_at", "collected_at": "pulled_at",
        "holder": "lock_holder", "held_until": "locked_until",
    },
    "labeling_tasks": {"board_id": "project_id", "number": "remote_id", "seen_at": "remote_updated_at"},
    "labeling_annotations": {
        "posting_id": "task_id", "number": "remote_id", "task": "remote_task_id", "made_at": "remote_created_at",
        "person": "email", "said": "content", "said_at": "content_updated_at", "gone": "deleted", "forgotten": "lost",
        "shown": "refusal_shown",
    },
}  # fmt: skip

CREATED = (
    "reviewers", "sign_in_tokens", "sessions", "snapshots", "tags", "checkpoints", "training_runs", "rounds",
    "screenings", "acceptance_models", "gates", "top_n_runs", "claims", "decisions", "gold", "aggregations", "samples",
    "imports", "events", "caption_runs", "captions", "labeling_projects", "labeling_tasks", "labeling_annotations",
    "labeling_users", "pending_jobs",
)  # fmt: skip

STATES = {"drawing": "generating", "drawn": "generated"}
KINDS = {"oracle": "rule_reviewer", "machine": "auto_reviewer"}

# Constraints whose words change: table, name, condition with {placeholders} of the words.
CHECKS = (
    ("candidates", "state", "state in ('requested', '{drawing}', '{drawn}', 'refused', 'screened', 'unshown', "
     "'waiting', 'showing', 'accepted', 'rejected', 'failed', 'withdrawn')"),
    ("rounds", "purpose", "purpose in ('{drawn}', 'seeds', 'gold')"),
    ("rounds", "checkpoint", "(purpose = '{drawn}') = (checkpoint_id is not null)"),
    ("leases", "purpose", "purpose in ('{draw}', 'review', 'train', 'caption')"),
    ("reviewers", "kind", "kind in ('person', '{oracle}', '{machine}')"),
)  # fmt: skip
LABEL_SOURCE = "label_source in ('person', '{oracle}')"

# The states of a task in Label Studio.
TASK_STATES = {"up": "open", "answered": "annotated", "down": "removed"}
# By the name that the convention would give: a name that is within PostgreSQL's limit of 63 characters.
IDENTITY = (
    ("uq_desk_answers_posting_id_number_author_made_at", "uq_desk_answers_remote_identity"),
    ("uq_labeling_annotations_task_id_number_author_made_at", "uq_labeling_annotations_remote_identity"),
)

NEW = STATES | KINDS | {"draw": "generate"}
OLD = {word: word for word in NEW}


def upgrade() -> None:
    op.drop_index("ix_candidates_drawn", table_name="candidates")
    _drop_checks()
    op.drop_constraint(op.f("ck_heads_teacher"), "heads")
    _drop_task_states("desk_postings")
    for old, new in TABLES.items():
        op.rename_table(old, new)
    for table, renamed in COLUMNS.items():
        for old, new in renamed.items():
            op.alter_column(table, old, new_column_name=new)
    for table in CREATED:
        op.alter_column(table, "at", new_column_name="created_at")
    _rename_constraints(forward=True)
    _replace_words(NEW)
    _create_checks(NEW)
    _replace_task_states("labeling_tasks", TASK_STATES)
    op.create_check_constraint(
        op.f("ck_acceptance_models_label_source"), "acceptance_models", LABEL_SOURCE.format(**NEW)
    )
    op.create_index(
        "ix_candidates_generated", "candidates", ["round_id", "id"], postgresql_where=sa.text("state = 'generated'")
    )
    op.execute("alter function candidates_keep_the_law() rename to check_candidate_transition")
    op.execute("alter trigger keep_the_law on candidates rename to check_transition")


def downgrade() -> None:
    op.execute("alter trigger check_transition on candidates rename to keep_the_law")
    op.execute("alter function check_candidate_transition() rename to candidates_keep_the_law")
    op.drop_index("ix_candidates_generated", table_name="candidates")
    op.drop_constraint(op.f("ck_acceptance_models_label_source"), "acceptance_models")
    _drop_checks()
    _drop_task_states("labeling_tasks")
    _replace_words({new: old for old, new in NEW.items()})
    for table in CREATED:
        op.alter_column(table, "created_at", new_column_name="at")
    for table, renamed in COLUMNS.items():
        for old, new in renamed.items():
            op.alter_column(table, new, new_column_name=old)
    for old, new in TABLES.items():
        op.rename_table(new, old)
    _rename_constraints(forward=False)
    _create_checks(OLD)
    _replace_task_states("desk_postings", {new: old for old, new in TASK_STATES.items()})
    op.create_check_constraint(op.f("ck_heads_teacher"), "heads", "teacher in ('person', 'oracle')")
    op.create_index(
        "ix_candidates_drawn", "candidates", ["round_id", "id"], postgresql_where=sa.text("state = 'drawn'")
    )


def _drop_checks() -> None:
    for table, name, _ in CHECKS:
        op.drop_constraint(op.f(f"ck_{table}_{name}"), table)


def _create_checks(words: dict[str, str]) -> None:
    for table, name, condition in CHECKS:
        op.create_check_constraint(op.f(f"ck_{table}_{name}"), table, condition.format(**words))


def _replace_words(words: dict[str, str]) -> None:
    """Replace stored words, with the triggers off that keep decisions and transitions as they are."""
    op.execute("alter table candidates disable trigger user")
    op.execute("alter table decisions disable trigger user")
    for old, new in words.items():
        for table, column in (
            ("candidate_moves", "source"), ("candidate_moves", "target"), ("candidates", "state"),
            ("rounds", "purpose"), ("leases", "purpose"), ("reviewers", "kind"), ("reviewers", "name"),
            ("decisions", "channel"), ("acceptance_models", "label_source"),
        ):  # fmt: skip
            # A person may have taken one of the names; theirs stays.
            unless = f" and not exists (select from reviewers where name = '{new}')" if column == "name" else ""
            kind = " and kind <> 'person'" if column == "name" else ""
            op.execute(f"update {table} set {column} = '{new}' where {column} = '{old}'{kind}{unless}")
    op.execute("alter table candidates enable trigger user")
    op.execute("alter table decisions enable trigger user")
    forward = "drawn" in words
    for table, column, keys in (
        ("training_runs", "progress", ("figures", "metrics")),
        ("caption_runs", "progress", ("figures", "metrics")),
        ("rounds", "consensus", ("machines_vote", "rule_reviewer_votes")),
        ("top_n_runs", "metrics", ("by_machine", "auto_accepted")),
        ("labeling_annotations", "content", ("fault", "error")),
    ):
        old, new = keys if forward else keys[::-1]
        op.execute(
            f"update {table} set {column} = ({column} - '{old}') || jsonb_build_object('{new}', {column} -> '{old}') "
            f"where {column} ? '{old}'"
        )
    op.execute("delete from pending_jobs")  # the names of jobs changed too; the reconcile job asks for all that stands


def _drop_task_states(table: str) -> None:
    op.drop_index(f"uq_{table}_live", table_name=table)
    op.drop_constraint(op.f(f"ck_{table}_state"), table)


def _replace_task_states(table: str, words: dict[str, str]) -> None:
    """Replace the states of tasks; the constraint and the index of open tasks are created anew."""
    for old, new in words.items():
        op.execute(f"update {table} set state = '{new}' where state = '{old}'")
    begun, annotated, removed = words.values()
    op.create_check_constraint(
        op.f(f"ck_{table}_state"), table, f"state in ('sending', '{begun}', '{annotated}', '{removed}', 'refused')"
    )
    op.create_index(
        f"uq_{table}_live", table, ["candidate_id"], unique=True,
        postgresql_where=sa.text(f"state in ('sending', '{begun}')"),
    )  # fmt: skip


def _rename_constraints(*, forward: bool) -> None:
    """Give constraints, indexes and sequences the names that the naming convention asks for."""
    connection = op.get_bind()
    columns = {old: new for renamed in COLUMNS.values() for old, new in renamed.items() if old.endswith("_id")}
    words = TABLES | columns
    words = words if forward else {new: old for old, new in words.items()}
    tables = tuple(TABLES.values() if forward else TABLES) + ("scores", "gates")
    for table in tables:
        for (name,) in connection.execute(
            sa.text("select conname from pg_constraint where conrelid = cast(:table as regclass)"), {"table": table}
        ).all():
            if (new := _renamed(name, words)) != name:
                op.execute(f'alter table {table} rename constraint "{name}" to "{new}"')
        for (name,) in connection.execute(
            sa.text("select indexname from pg_indexes where tablename = :table and schemaname = current_schema()"),
            {"table": table},
        ).all():
            if (new := _renamed(name, words)) != name:
                op.execute(f'alter index "{name}" rename to "{new}"')
        for (name,) in connection.execute(
            sa.text(
                "select s.relname from pg_class s join pg_depend d on d.objid = s.oid "
                "where s.relkind = 'S' and d.refobjid = cast(:table as regclass)"
            ),
            {"table": table},
        ).all():
            if (new := _renamed(name, words)) != name:
                op.execute(f'alter sequence "{name}" rename to "{new}"')
    desk, server = ("_desk", "_server_url") if forward else ("_server_url", "_desk")
    table = "labeling_projects" if forward else "desk_boards"
    op.execute(
        f'alter table {table} rename constraint "uq_{table}_round_id{desk}_part" to "uq_{table}_round_id{server}_part"'
    )
    answers = "labeling_annotations" if forward else "desk_answers"
    identity = IDENTITY[1] if forward else IDENTITY[0][::-1]
    op.execute(f'alter table {answers} rename constraint "{identity[0]}" to "{identity[1]}"')
    look, interim = ("look", "interim_look") if forward else ("interim_look", "look")
    op.execute(
        f'alter table gates rename constraint "uq_gates_round_id_verdict_{look}" '
        f'to "uq_gates_round_id_verdict_{interim}"'
    )


def _renamed(name: str, words: dict[str, str]) -> str:
    for old, new in words.items():
        before, found, after = name.partition(f"_{old}")
        if found and (not after or after.startswith("_")):
            name = f"{before}_{new}{after}"
    if name.split("_")[0] in words:  # a sequence begins with its table
        first = name.split("_")[0]
        name = words[first] + name[len(first) :]
    return name
