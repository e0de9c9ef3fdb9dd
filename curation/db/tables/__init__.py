"""The database tables, with the constraints and indexes that a million candidates need."""

from __future__ import annotations

from curation.db.tables.columns import SHA, metadata
from curation.db.tables.comparisons import (
    comparison_drawings,
    comparison_items,
    comparison_layers,
    comparison_votes,
    comparisons,
)
from curation.db.tables.datasets import (
    caption_runs,
    captions,
    import_files,
    imports,
    layer_bands,
    layers,
    prompts,
    sample_layers,
    samples,
    snapshot_notes,
    snapshots,
    tags,
)
from curation.db.tables.events import (
    event_seals,
    events,
    unsealed_events,
    webhook_deliveries,
    webhooks,
)
from curation.db.tables.labeling import (
    labeling_annotations,
    labeling_projects,
    labeling_tasks,
    labeling_users,
)
from curation.db.tables.operation import (
    instance_secrets,
    pending_jobs,
    workers,
)
from curation.db.tables.people import (
    api_tokens,
    reviewer_identities,
    reviewers,
    sessions,
    sign_in_tokens,
)
from curation.db.tables.review import (
    aggregations,
    claims,
    decisions,
    gold,
    leases,
)
from curation.db.tables.rounds import (
    candidate_layers,
    candidate_moves,
    candidates,
    embeddings,
    generation_settings,
    kept_reports,
    loop_turns,
    loops,
    round_count_deltas,
    round_counts,
    rounds,
    sample_embeddings,
    screenings,
)
from curation.db.tables.selection import (
    acceptance_models,
    gates,
    scores,
    top_n_members,
    top_n_runs,
)
from curation.db.tables.takedowns import (
    blocked_layers,
    packs,
    takedown_items,
    takedowns,
)
from curation.db.tables.training import (
    checkpoints,
    run_logs,
    run_metrics,
    run_states,
    training_runs,
)

__all__ = [
    "APPEND_ONLY",
    "SHA",
    "acceptance_models",
    "aggregations",
    "api_tokens",
    "blocked_layers",
    "candidate_layers",
    "candidate_moves",
    "candidates",
    "caption_runs",
    "captions",
    "checkpoints",
    "claims",
    "comparison_drawings",
    "comparison_items",
    "comparison_layers",
    "comparison_votes",
    "comparisons",
    "decisions",
    "embeddings",
    "event_seals",
    "events",
    "gates",
    "generation_settings",
    "gold",
    "import_files",
    "imports",
    "instance_secrets",
    "kept_reports",
    "labeling_annotations",
    "labeling_projects",
    "labeling_tasks",
    "labeling_users",
    "layer_bands",
    "layers",
    "leases",
    "loop_turns",
    "loops",
    "metadata",
    "packs",
    "pending_jobs",
    "prompts",
    "reviewer_identities",
    "reviewers",
    "round_count_deltas",
    "round_counts",
    "rounds",
    "run_logs",
    "run_metrics",
    "run_states",
    "sample_embeddings",
    "sample_layers",
    "samples",
    "scores",
    "screenings",
    "sessions",
    "sign_in_tokens",
    "snapshot_notes",
    "snapshots",
    "tags",
    "takedown_items",
    "takedowns",
    "top_n_members",
    "top_n_runs",
    "training_runs",
    "unsealed_events",
    "webhook_deliveries",
    "webhooks",
    "workers",
]

APPEND_ONLY = (decisions, events, event_seals, captions, aggregations, comparison_votes)
"""Tables whose rows cannot be updated or deleted, which triggers in the database enforce."""
