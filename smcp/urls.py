"""Which doors this process opens. The API and the console are separate processes on separate hosts."""

from __future__ import annotations

from django.conf import settings
from django.urls import URLPattern, URLResolver, include, path

from smcp.common.healthz import healthz

urlpatterns: list[URLPattern | URLResolver] = [path("healthz", healthz)]
if settings.DOOR == "api":
    from smcp.api import api

    urlpatterns += [path("api/v1/", include("smcp.docs")), path("api/v1/", api.urls)]
if settings.DOOR == "console":
    from django.contrib import admin

    urlpatterns += [path("", admin.site.urls)]
