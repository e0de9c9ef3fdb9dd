"""Samples, their captions, and the snapshots that trainings read."""
