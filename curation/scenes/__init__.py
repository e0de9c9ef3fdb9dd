"""Scenes: a background and any number of layers over it, drawn one after another, each to fit what lies below it."""
