"""Statistics on plain arrays and counts: confidence bounds, Dawid-Skene, psychometric curves."""
