"""Repositories of the Hugging Face Hub: pushes of snapshots and checkpoints, and downloads."""
