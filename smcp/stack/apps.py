from django.apps import AppConfig


class StackConfig(AppConfig):
    name = "smcp.stack"
    label = "stack"
