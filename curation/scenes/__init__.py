"""Scenes: a background and layers, generated one after another to fit what lies below."""
