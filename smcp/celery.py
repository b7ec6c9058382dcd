"""The Celery application. Tasks carry ids and re-read the world; the sweep, not the message, is what recovers."""

from __future__ import annotations

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "smcp.settings")

app = Celery("smcp")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
