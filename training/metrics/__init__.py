"""Metrics of images and mattes, one family per file, with definition and source."""
