"""Preference training: a base or layer adapters learn from accepted and rejected candidates."""
