"""Registers the Cloudflare account of the environment variables and makes it ready. Safe to run at every start."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from hosting.cloudflare.errors import CloudflareError
from hosting.provisioning.accounts import ensure_account


class Command(BaseCommand):
    help = (
        "Registers the account of CLOUDFLARE_ACCOUNT_ID and CLOUDFLARE_API_TOKEN, creates its dispatch namespace and uploads the "
        "dispatcher Worker when its code or keys changed."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--name", default="default", help="what people call the account")

    def handle(self, *args: Any, **options: Any) -> None:
        wanted = {
            "CLOUDFLARE_ACCOUNT_ID": settings.CLOUDFLARE_ACCOUNT_ID,
            "CLOUDFLARE_API_TOKEN": settings.CLOUDFLARE_API_TOKEN,
            "SMCP_DISPATCH_URL": settings.DISPATCH_URL,
        }
        missing = [name for name, value in wanted.items() if not value]
        if missing:
            raise CommandError(f"Set {' and '.join(missing)} first.")
        try:
            account = ensure_account(
                name=options["name"],
                cloudflare_account_id=settings.CLOUDFLARE_ACCOUNT_ID,
                token=settings.CLOUDFLARE_API_TOKEN,
                api_base_url=settings.CLOUDFLARE_API_BASE_URL,
                dispatch_url=settings.DISPATCH_URL,
                dispatch_host=settings.DISPATCH_HOST,
                now=timezone.now(),
            )
        except CloudflareError as exc:
            raise CommandError(f"The account could not be made ready: {exc}") from exc
        self.stdout.write(f"The account “{account.name}” is ready ({account.dispatch_namespace}).")
