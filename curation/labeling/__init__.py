"""Desks of other software: what is put up there, what comes back, and how both sides are kept equal."""
