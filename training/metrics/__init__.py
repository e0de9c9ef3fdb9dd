"""Metrics of images and mattes, one family per module, with definition and source."""
