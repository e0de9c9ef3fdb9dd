"""The JSON API of the house, over HTTP."""
