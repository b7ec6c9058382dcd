from importlib import import_module

from django.apps import AppConfig


class StackConfig(AppConfig):
    name = "smcp.stack"
    label = "stack"

    def ready(self) -> None:
        # Makes our Celery application the current one in every process that loads Django, so each can wake the workers.
        import_module("smcp.celery")
