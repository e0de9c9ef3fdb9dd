"""Maintenance of an instance: garbage collection, backup and restore, moving to other servers."""
