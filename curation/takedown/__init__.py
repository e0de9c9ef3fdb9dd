"""Takedowns: samples and images removed for ever, with a record, and never imported again."""
