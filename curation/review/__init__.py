"""People decide: trays under lease, decisions that are never lost, who may sign in, and the report of a round."""
