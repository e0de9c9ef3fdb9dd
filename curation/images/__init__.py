"""Image files and layers: format detection, decoding with one color policy, and measurements.

The package needs neither a database nor an instance, so that `training` may import it.
"""
