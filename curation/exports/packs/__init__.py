"""Packs: snapshots as immutable WebDataset tars with an index, for streaming from a bucket."""
