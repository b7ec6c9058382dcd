"""The console is Django's admin with our own site and theme."""

from __future__ import annotations

from django.apps import AppConfig
from django.contrib.admin.apps import AdminConfig


class ConsoleSiteConfig(AdminConfig):
    """Makes our site the one that `admin.site` means."""

    default = False


class ConsoleConfig(AppConfig):
    name = "smcp.console"
    label = "console"
