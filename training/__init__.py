"""Networks, losses and training loops. They read snapshots and never access the database."""
