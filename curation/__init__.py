"""The house of Layerloop: records, rules, conveyor, JSON API and command line; it never imports torch."""

__version__ = "0.1.0"
