"""Automatic screening: signals, rules, embeddings, test defects and the rule reviewer."""
