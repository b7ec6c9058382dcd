"""Django's command of this name asks for a password and fails at the database: says what makes an operator here instead."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser


class Command(BaseCommand):
    help = "Not how operators are made here: see create_operator."

    def add_arguments(self, parser: CommandParser) -> None:
        for option in ("--email", "--username", "--database"):
            parser.add_argument(option)
        parser.add_argument("--noinput", "--no-input", action="store_true")

    def handle(self, *args: Any, **options: Any) -> None:
        raise CommandError(
            "Operators are made with `manage.py create_operator ops@example.com`; docs/operations.md, Operators, says with which "
            "environment. `make up` keeps one already: its address and password stand in var/stack.json."
        )
