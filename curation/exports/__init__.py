"""Snapshots outside of an instance: pulled into folders of other programs, verified, described."""
