"""What is measured of a candidate before people look: signals, refusals, duplicates, selection, and the oracle."""
