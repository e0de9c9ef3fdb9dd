"""Loops: planned rounds that advance by a state machine in the database."""
