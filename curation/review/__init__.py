"""Review: leased queues, decisions, consensus, gold candidates, reviewers and sessions."""
