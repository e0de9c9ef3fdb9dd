"""Layers denoised together: joint attention, and a low-rank adapter for each role."""
