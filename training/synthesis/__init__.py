"""Pairs made step by step: a foreground with alpha, the picture around it, and the background behind it."""
