"""Everything a start does inside Django once the tables are there, in one process: it takes a second to load.

The account is made ready, the data plane is told what it must know (its Redis may be empty), and the operator and the demo
tenant are there. Each of the three may be done again and again.
"""

from __future__ import annotations

from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand

from hosting import routing


class Command(BaseCommand):
    help = "Makes the account ready, publishes the routes, and makes the demo; prints what `demo` prints."

    def handle(self, *args: Any, **options: Any) -> None:
        call_command("ensure_account", stdout=self.stderr)
        routing.republish()
        call_command("demo", stdout=self.stdout, stderr=self.stderr)
