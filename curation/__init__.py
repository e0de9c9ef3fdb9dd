"""The data engine: database, rules, jobs, HTTP API and command line; it never imports torch."""

__version__ = "0.1.0"
