"""Seals the headers of servers elsewhere anew, after the gateways' key ring got another first key. Safe to run at any time."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from hosting.operations.remotes import reseal
from smcp.common.tenancy import as_system


class Command(BaseCommand):
    help = (
        "Publishes every Route with configured headers again, sealed under the first key of SMCP_ROUTE_KEYS."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        with as_system():
            count = reseal()
        self.stdout.write(f"{count} sealed anew.")
