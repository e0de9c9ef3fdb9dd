"""Networks, losses and training loops; they read snapshots, never the database."""
