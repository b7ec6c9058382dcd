"""The console is Django's admin with our own site and theme. Only the console's process loads its pages."""

from __future__ import annotations

from django.apps import AppConfig
from django.conf import settings
from django.contrib.admin.apps import SimpleAdminConfig


class ConsoleSiteConfig(SimpleAdminConfig):
    """Makes our site the one that `admin.site` means."""

    default = False
    default_site = "smcp.console.site.ConsoleSite"

    def ready(self) -> None:
        from django.contrib.admin import autodiscover

        super().ready()
        if settings.DOOR == "console":
            autodiscover()


class ConsoleConfig(AppConfig):
    name = "smcp.console"
    label = "console"
    verbose_name = "Console"
