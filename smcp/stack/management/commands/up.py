"""`manage.py up`: run the whole platform in the foreground."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand

from smcp.stack.up import main


class Command(BaseCommand):
    help = "Run the whole platform on this machine, in the foreground; Ctrl-C stops it."
    requires_system_checks = []

    def handle(self, *args: Any, **options: Any) -> None:
        sys.exit(main())
