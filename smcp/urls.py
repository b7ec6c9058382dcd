"""Which doors this process opens. The API and the console are separate processes on separate hosts."""

from __future__ import annotations

from django.urls import URLPattern, URLResolver

urlpatterns: list[URLPattern | URLResolver] = []
