"""Pretrained models: their families, their loading, and their architectures without a download."""
