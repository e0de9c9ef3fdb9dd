"""Interoperability: weights of other programs, recognized by content, imported and exported."""

from training.interop.transparency_weights import read_transparency

__all__ = ["read_transparency"]
