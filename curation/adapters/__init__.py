"""What the doors open onto: the embedded PostgreSQL, the queue and the S3 store."""
