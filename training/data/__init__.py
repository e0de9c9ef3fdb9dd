"""Snapshots as tensors: datasets, aspect buckets, samplers and the on-disk tensor cache."""
