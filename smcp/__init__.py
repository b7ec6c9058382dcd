"""The wiring. Loaded with Django, so that every process can send to the workers."""

from smcp.celery import app as celery_app

__all__ = ["celery_app"]
