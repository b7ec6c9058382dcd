"""An Environment that serves something, as the monitors find it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import redis as redis_library
from django.utils import timezone

from hosting.models import Account, Deployment, DeploymentTarget, Environment, Release, Server, Version
from smcp.common.ids import new_id
from smcp.common.tenancy import as_system
from tenants.models import Tenant

Deployed = Callable[..., Environment]


@pytest.fixture
def deployed(committed_db: None) -> Iterator[Deployed]:
    """Makes Environments of fresh tenants; `eras` is what the deployed Release speaks, None deploys nothing."""
    made: list[Environment] = []

    def make(eras: tuple[str, ...] | None = ("legacy", "modern")) -> Environment:
        with as_system():
            tenant_id = new_id()
            tenant = Tenant.objects.create(id=tenant_id, slug=f"t{tenant_id[-12:]}", name="A tenant")
            account, _ = Account.objects.get_or_create(
                name="monitored",
                defaults={
                    "cloudflare_account_id": "c" * 32,
                    "api_base_url": "http://127.0.0.1:1/client/v4",
                    "token_sealed": "",
                    "dispatch_namespace": "n",
                    "dispatch_url": "http://127.0.0.1:1",
                    "state": Account.State.FULL,
                },
            )
            server = Server.objects.create(tenant=tenant, slug="weather", name="Weather", created_by="system")
            environment = Environment.objects.create(
                tenant=tenant, server=server, slug="production", account=account
            )
            if eras is not None:
                _deploy(environment, eras)
        made.append(environment)
        return environment

    yield make
    with as_system():
        Environment.objects.filter(id__in=[e.id for e in made]).update(state=Environment.State.RETIRED)


def _deploy(environment: Environment, eras: tuple[str, ...]) -> None:
    of = {"tenant_id": environment.tenant_id}
    version = Version.objects.create(
        **of,
        server=environment.server,
        number=1,
        digest="0" * 64,
        main_module="worker.js",
        modules=[],
        compatibility_date=timezone.now().date(),
        size_bytes=0,
        created_by="system",
    )
    release = Release.objects.create(
        **of, environment=environment, version=version, number=1, script_name="s", eras=list(eras)
    )
    deployment = Deployment.objects.create(
        **of, environment=environment, number=1, is_active=True, operation_id=new_id(), created_by="system"
    )
    DeploymentTarget.objects.create(**of, deployment=deployment, release=release, percentage=100)


@pytest.fixture
def reports_redis(redis_url: str) -> Iterator[redis_library.Redis]:
    with redis_library.Redis.from_url(redis_url) as client:
        yield client
