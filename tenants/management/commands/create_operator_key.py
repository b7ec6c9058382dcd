"""Makes an operator's key for the REST API. Prints it, once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from smcp.common.tenancy import as_system
from tenants.operations import create_operator_key


class Command(BaseCommand):
    help = "Makes a key that creates, suspends and resumes tenants over REST. It is printed once, alone on standard output."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", help="who or what holds it")
        parser.add_argument("--days", type=int, default=0, help="how long it is good for; 0: until revoked")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["days"] < 0:
            raise CommandError("--days must be 0 or more.")
        expires_at = timezone.now() + timedelta(days=options["days"]) if options["days"] else None
        with as_system():
            _, key = create_operator_key(name=options["name"], expires_at=expires_at)
        self.stdout.write(key)
