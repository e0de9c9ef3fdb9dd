"""Presets: one row each with documented columns, and overrides by `--set`."""
