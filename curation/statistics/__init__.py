"""Statistics on arrays and counts alone: confidence bounds, Dawid-Skene, psychometric curves."""
