"""Evaluation of checkpoints on held-out samples, during training or in full."""
