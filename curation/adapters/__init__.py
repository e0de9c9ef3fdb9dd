"""Adapters of the ports: embedded PostgreSQL, Celery queue, S3 store, Label Studio, language model servers."""
