"""The operator and the demo tenant with its live server: made by the first run, found by every other.

One JSON object goes to standard output, progress to standard error. What cannot be shown twice is remembered by the caller, in
SMCP_OPERATOR_PASSWORD, SMCP_OPERATOR_API_KEY and SMCP_DEMO_API_KEY or in the file of `--state` (0600); when nobody remembers, there is a new one.
Every part tolerates being done twice, so a run that was cut off is simply run again.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection
from django.utils import timezone

from hosting.catalog.catalog import get_entry
from hosting.models import UNFINISHED, Deployment, Environment, Operation, Server, Version
from hosting.operations.catalog import create_server_from_catalog
from hosting.operations.deployments import deploy_version
from hosting.operations.rows import lock_server
from hosting.operations.versions import add_version, find_version
from hosting.queries.operations import get_operation, list_operations
from hosting.queries.servers import get_environment
from hosting.schemas.servers import endpoint_of
from hosting.uploads import check_upload
from smcp import env
from smcp.common.errors import DomainError
from smcp.common.tenancy import as_system, as_tenant
from smcp.stack.operator import EMAIL
from tenants import keys
from tenants.models import ApiKey, OperatorKey, Tenant
from tenants.operations import (
    create_api_key,
    create_operator_key,
    create_tenant,
    ensure_operator,
    revoke_api_key,
)

TENANT: Final = "demo"
SERVER: Final = "starter"
ENVIRONMENT: Final = "production"
KEY_NAME: Final = "demo"
ACTOR: Final = "system"
LOOK_EVERY_S: Final = 0.2


class Command(BaseCommand):
    help = "Makes the operator and the demo tenant with a live server, and says as JSON how to reach them."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--state", type=Path, help="file that remembers the password and the key")
        parser.add_argument(
            "--timeout", type=float, default=180.0, help="seconds until the server must be live"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            with _remembered(options["state"]) as known:
                answer = self._ensure_all(known, timeout_s=options["timeout"])
        except DomainError as exc:
            raise CommandError(str(exc)) from exc
        self.stdout.write(json.dumps(answer))

    def _ensure_all(self, known: dict[str, str], *, timeout_s: float) -> dict[str, Any]:
        known["operator_password"] = known.get("operator_password") or secrets.token_urlsafe(18)
        with as_system():
            ensure_operator(email=EMAIL, password=known["operator_password"])
            known["operator_api_key"] = _ensure_operator_key(known.get("operator_api_key", ""))
            tenant = Tenant.objects.filter(slug=TENANT).first()
        if tenant is None:
            self._say("Making the tenant “demo”.")
            tenant = create_tenant(actor=ACTOR, slug=TENANT, name="Demo")
        self._ensure_live(tenant, timeout_s=timeout_s)
        known["demo_api_key"] = _ensure_key(tenant, known.get("demo_api_key", ""))
        return {
            "operator": {
                "email": EMAIL,
                "password": known["operator_password"],
                "api_key": known["operator_api_key"],
            },
            "demo": {
                "tenant": TENANT,
                "server": SERVER,
                "endpoint": endpoint_of(TENANT, SERVER, ENVIRONMENT),
                "api_key": known["demo_api_key"],
            },
        }

    def _ensure_live(self, tenant: Tenant, *, timeout_s: float) -> None:
        """Deploys what the catalog holds now, unless just that is live."""
        until = time.monotonic() + timeout_s
        version, environment = _ensure_version(tenant)
        with as_tenant(tenant.id):
            under_way = (
                list_operations(tenant_id=tenant.id, server_slug=SERVER).filter(state__in=UNFINISHED).first()
            )
        if under_way is not None:
            self._follow(tenant, under_way, until)
        if not _is_live(version, environment):
            operation = deploy_version(
                tenant_id=tenant.id,
                actor=ACTOR,
                environment_id=environment.id,
                targets=[(version.id, 100)],
                now=timezone.now(),
            )
            self._follow(tenant, operation, until)
            if not _is_live(version, environment):
                raise CommandError(f"The demo server did not go live. {_why(tenant, operation)}")

    def _follow(self, tenant: Tenant, operation: Operation, until: float) -> None:
        """Says every change of the steps until the Operation has ended."""
        said = ""
        while True:
            with as_tenant(tenant.id):
                operation = get_operation(tenant_id=tenant.id, operation_id=operation.id)
                steps = list(operation.steps.all())
            done = sum(step.state == "done" for step in steps)
            busy = next((step for step in steps if step.state in {"started", "undoing"}), None)
            news = f"{operation.get_kind_display()}: {done} of {len(steps)}" + (
                f", {busy.name.replace('_', ' ')}{': ' + busy.message if busy.message else ''}"
                if busy
                else ""
            )
            if news != said:
                said = news
                self._say(news)
            if operation.is_finished:
                return
            if time.monotonic() > until:
                raise CommandError(
                    f"The demo server is not live yet. Last seen: {news}. Is a worker running?"
                )
            time.sleep(LOOK_EVERY_S)

    def _say(self, text: str) -> None:
        self.stderr.write(text)
        self.stderr.flush()


def _ensure_version(tenant: Tenant) -> tuple[Version, Environment]:
    entry = get_entry(SERVER)
    upload = check_upload(metadata=entry.metadata, modules=entry.modules, now=timezone.now())
    with as_tenant(tenant.id):
        found = Server.objects.filter(tenant_id=tenant.id, slug=SERVER).first()
        if found is None:
            _, version = create_server_from_catalog(
                tenant_id=tenant.id, actor=ACTOR, catalog_slug=SERVER, slug=SERVER, now=timezone.now()
            )
        else:
            server = lock_server(tenant_id=tenant.id, server_id=found.id)
            version = find_version(server=server, digest=upload.digest) or add_version(
                server=server, actor=ACTOR, upload=upload, handlers=["fetch"]
            )
        return version, get_environment(tenant_id=tenant.id, server_slug=SERVER, slug=ENVIRONMENT)


def _is_live(version: Version, environment: Environment) -> bool:
    with as_tenant(environment.tenant_id):
        return Deployment.objects.filter(
            tenant_id=environment.tenant_id,
            environment=environment,
            is_active=True,
            targets__release__version=version,
        ).exists()


def _why(tenant: Tenant, operation: Operation) -> str:
    with as_tenant(tenant.id):
        error = get_operation(tenant_id=tenant.id, operation_id=operation.id).error or {}
    return f"Step {error.get('step', '?')}: {error.get('message', 'no reason was recorded')}"


def _ensure_key(tenant: Tenant, remembered: str) -> str:
    """The remembered key when it still works, else a new one in the place of all earlier ones."""
    now = timezone.now()
    with as_tenant(tenant.id):
        rows = list(ApiKey.objects.filter(tenant_id=tenant.id, name=KEY_NAME, revoked_at=None))
    if any(keys.is_same(remembered, row.digest) and row.expires_at is None for row in rows):
        return remembered
    for row in rows:
        revoke_api_key(tenant_id=tenant.id, actor=ACTOR, api_key_id=row.id, now=now)
    _, key = create_api_key(
        tenant_id=tenant.id, actor=ACTOR, name=KEY_NAME, scopes=[ApiKey.Scope.MCP_CALL], now=now
    )
    return key


def _ensure_operator_key(remembered: str) -> str:
    """As `_ensure_key`, for the REST API as the platform's operator. Call inside `as_system()`."""
    rows = list(OperatorKey.objects.filter(name=KEY_NAME, revoked_at=None))
    if any(keys.is_same(remembered, row.digest) and row.expires_at is None for row in rows):
        return remembered
    OperatorKey.objects.filter(id__in=[row.id for row in rows]).update(revoked_at=timezone.now())
    _, key = create_operator_key(name=KEY_NAME)
    return key


@contextmanager
def _remembered(state: Path | None) -> Iterator[dict[str, str]]:
    """What earlier runs made; what this one makes is remembered too, even when it then fails."""
    known: dict[str, str] = {}
    if state is not None and state.exists():
        known = json.loads(state.read_text())
    for name in ("operator_password", "operator_api_key", "demo_api_key"):
        known[name] = env.text(f"SMCP_{name.upper()}") or known.get(name, "")
    try:
        yield known
    finally:
        connection.close()
        if state is not None:
            beside = state.with_name(state.name + ".new")
            with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                json.dump(known, file)
            beside.replace(state)
