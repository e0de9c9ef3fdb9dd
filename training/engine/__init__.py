"""The trainer: one training loop for all stages, with distribution, resuming and logging."""
