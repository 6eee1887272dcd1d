"""Celery workers: everything that needs torch, transformers or the Label Studio SDK."""
