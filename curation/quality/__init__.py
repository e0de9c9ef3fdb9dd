"""Review quality: agreement of reviewers, aggregation of verdicts, and creation of gold."""
