"""Makes an operator of the platform, or gives one a new password. Prints a password it made up, once."""

from __future__ import annotations

import secrets
import sys
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.core.validators import validate_email

from smcp.common.errors import DomainError
from smcp.common.tenancy import as_system
from tenants.operations import ensure_operator


class Command(BaseCommand):
    help = "Makes an operator, who may enter the console. Running it again sets a new password."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email")
        parser.add_argument(
            "--password-stdin", action="store_true", help="read the password from standard input"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        email = options["email"]
        try:
            validate_email(email)
        except ValidationError as exc:
            raise CommandError(f"{email} is no e-mail address.") from exc
        given = sys.stdin.readline().rstrip("\r\n") if options["password_stdin"] else ""
        password = given or secrets.token_urlsafe(18)
        try:
            with as_system():
                ensure_operator(email=email, password=password)
        except DomainError as exc:
            raise CommandError(str(exc)) from exc
        self.stdout.write(f"{email} is an operator.")
        if not given:
            self.stdout.write(f"Password, shown once: {password}")
