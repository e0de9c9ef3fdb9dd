"""Reports on rounds, reviewers and comparisons, computed from the database."""
