"""Reports of rounds, reviewers and comparisons, computed from the records."""
