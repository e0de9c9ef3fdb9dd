"""Checkpoints and training runs."""
