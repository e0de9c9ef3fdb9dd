"""Label Studio: projects and tasks for candidates, and synchronization of their annotations."""
