"""Label Studio: which candidates are tasks there, which annotations come back, and synchronization of both."""
