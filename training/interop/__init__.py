"""Weights that others released: recognised by their content, read into our parts, and written back out."""

from training.interop.transparency_weights import read_transparency

__all__ = ["read_transparency"]
