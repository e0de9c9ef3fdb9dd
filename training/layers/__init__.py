"""Layers of one picture drawn together: they see each other in every attention, each with adapters of its role."""
