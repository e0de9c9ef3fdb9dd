"""Steering: choose the prompts of the next round by what earlier decisions say about them."""
