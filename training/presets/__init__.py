"""Presets: one row each, documented columns, and `--set` to override some."""
