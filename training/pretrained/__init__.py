"""Models of others that transparency is taught to: their families, their loading, their sizes without a download."""
