"""Layered file formats: PSD, OpenRaster and TIFF."""
