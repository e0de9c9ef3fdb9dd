"""Pair synthesis by inpainting: a foreground with alpha, then the image around and behind it."""
