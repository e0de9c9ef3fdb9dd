"""Adapters of the ports: embedded PostgreSQL, Celery, S3, Label Studio, language model servers."""
