"""Blind comparisons of two checkpoints, side by side on the same prompts and seeds."""
