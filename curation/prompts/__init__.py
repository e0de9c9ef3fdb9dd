"""Triples: prompts with a text for the foreground, one for the background and one for the whole, made in numbers."""
