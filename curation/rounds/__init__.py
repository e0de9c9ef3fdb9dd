"""Rounds: their lifecycle, their policies, and the generation of their candidates."""
