"""Screening of foreground/background pairs."""
