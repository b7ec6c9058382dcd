"""What the data plane is told, read back from a real Redis as a node would read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import pytest
import redis
from django.conf import settings
from django.utils import timezone

from hosting import routing
from hosting.dataplane.contract import (
    AnyFact,
    Credential,
    Keys,
    Route,
    Suspension,
    decode_fact,
    digest_of_key,
)
from hosting.models import Environment, Server
from hosting.operations.environments import update_environment
from hosting.operations.servers import resume_server, suspend_server
from smcp.common.tenancy import as_system
from tenants.models import Tenant
from tenants.operations import create_api_key, resume_tenant, revoke_api_key, suspend_tenant
from tests import factories

KEYS = Keys(installation=settings.INSTALLATION)


@dataclass
class Node:
    """Reads facts as a node of the data plane does: the hash for the state, the stream for changes."""

    client: redis.Redis

    def fact(self, key: str) -> AnyFact | None:
        raw = cast("bytes | None", self.client.hget(KEYS.facts, key))
        return None if raw is None else decode_fact(raw)

    def changes(self) -> list[AnyFact]:
        entries = cast("list[tuple[bytes, dict[bytes, bytes]]]", self.client.xrange(KEYS.changes))
        return [decode_fact(fields[b"fact"]) for _, fields in entries]

    @property
    def epoch(self) -> bytes | None:
        return cast("bytes | None", self.client.get(KEYS.epoch))


@pytest.fixture
def node(redis_url: str, committed_db: None) -> Node:
    return Node(redis.Redis.from_url(settings.DATAPLANE_REDIS_URL))


def serving_environment() -> Environment:
    """One that serves two Releases, three to one."""
    with as_system():
        tenant = factories.make_tenant()
        server = factories.make_server(tenant)
        environment = factories.make_environment(server, factories.make_account(), route_version=1)
        first = factories.make_release(environment, factories.make_version(server), issues_sessions=True)
        second = factories.make_release(environment, factories.make_version(server), eras=["modern"])
        factories.make_deployment(environment, [(first, 75), (second, 25)])
    return environment


def published(environment: Environment) -> None:
    routing.publish_environments(tenant_id=environment.tenant_id, environment_ids=[environment.id])


def test_a_route_names_the_scripts_their_shares_and_how_to_reach_them(node: Node) -> None:
    environment = serving_environment()
    published(environment)
    route = node.fact(f"route/{environment.id}")
    assert isinstance(route, Route)
    assert [target.weight for target in route.targets] == [7500, 2500]
    assert [target.eras for target in route.targets] == [("legacy", "modern"), ("modern",)]
    assert [target.issues_sessions for target in route.targets] == [True, False]
    assert route.dispatch is not None
    assert environment.account is not None
    assert route.dispatch.url == environment.account.dispatch_url
    assert route.dispatch.audience.endswith(environment.account.cloudflare_account_id)
    assert (route.tenant, route.server_slug) == (environment.tenant_id, environment.server.slug)
    assert route.access == ("api_key",)


def test_an_environment_without_deployment_has_a_route_without_targets(node: Node) -> None:
    with as_system():
        environment = factories.make_environment(
            factories.make_server(factories.make_tenant()), factories.make_account()
        )
    published(environment)
    route = node.fact(f"route/{environment.id}")
    assert isinstance(route, Route)
    assert route.targets == ()
    assert not route.is_gone


def test_a_retired_environment_is_gone(node: Node) -> None:
    environment = serving_environment()
    published(environment)
    with as_system():
        Environment.objects.filter(id=environment.id).update(
            state=Environment.State.RETIRING, route_version=2
        )
    published(environment)
    assert node.fact(f"route/{environment.id}") is None
    assert [change.is_gone for change in node.changes()] == [False, True]


def test_an_older_version_never_replaces_a_newer_one(node: Node) -> None:
    environment = serving_environment()
    with as_system():
        [old] = routing.compose_routes(Environment.objects.filter(id=environment.id))
        Environment.objects.filter(id=environment.id).update(access=["public"], route_version=2)
    published(environment)
    assert routing.publish([old]) == 0
    route = node.fact(f"route/{environment.id}")
    assert isinstance(route, Route)
    assert (route.version, route.access) == (2, ("public",))
    assert len(node.changes()) == 1


def test_a_changed_policy_is_published_with_a_higher_version(node: Node) -> None:
    environment = serving_environment()
    update_environment(
        tenant_id=environment.tenant_id,
        actor="system",
        environment_id=environment.id,
        access=["public"],
        allowed_origins=["https://app.example.com"],
        limits={"requests_per_minute": 7},
    )
    route = node.fact(f"route/{environment.id}")
    assert isinstance(route, Route)
    assert route.version > environment.route_version
    assert route.access == ("public",)
    assert route.allowed_origins == ("https://app.example.com",)
    assert route.limits.requests_per_minute == 7


def test_a_suspended_tenant_is_known_at_once_and_a_resumed_one_too(node: Node) -> None:
    with as_system():
        tenant = factories.make_tenant()
    suspend_tenant(tenant_id=tenant.id, actor="system", reason="unpaid", now=timezone.now())
    fact = node.fact(f"suspension/{tenant.id}/")
    assert isinstance(fact, Suspension)
    assert fact.reason == "unpaid"
    resume_tenant(tenant_id=tenant.id, actor="system")
    assert node.fact(f"suspension/{tenant.id}/") is None
    assert [change.is_gone for change in node.changes()] == [False, True]


def test_a_suspended_server_is_known_by_its_slug(node: Node) -> None:
    with as_system():
        server = factories.make_server(factories.make_tenant())
    suspend_server(tenant_id=server.tenant_id, actor="system", server_id=server.id, reason="abuse")
    fact = node.fact(f"suspension/{server.tenant_id}/{server.slug}")
    assert isinstance(fact, Suspension)
    assert fact.reason == "abuse"
    resume_server(tenant_id=server.tenant_id, actor="system", server_id=server.id)
    assert node.fact(f"suspension/{server.tenant_id}/{server.slug}") is None


def test_a_key_is_known_by_its_digest_until_it_is_revoked(node: Node) -> None:
    with as_system():
        tenant = factories.make_tenant()
    key, text = create_api_key(
        tenant_id=tenant.id, actor="system", name="k", scopes=["mcp:call"], now=timezone.now()
    )
    fact = node.fact(f"credential/{tenant.id}/{key.id}")
    assert isinstance(fact, Credential)
    assert fact.digest == digest_of_key(text)
    assert text not in str(node.client.hgetall(KEYS.facts))
    revoke_api_key(tenant_id=tenant.id, actor="system", api_key_id=key.id, now=timezone.now())
    assert node.fact(f"credential/{tenant.id}/{key.id}") is None


def test_keys_for_the_rest_api_are_none_of_the_data_planes_business(node: Node) -> None:
    with as_system():
        tenant = factories.make_tenant()
    create_api_key(tenant_id=tenant.id, actor="system", name="k", scopes=["api:read"], now=timezone.now())
    assert node.changes() == []


def test_the_sweep_publishes_what_was_missed_and_then_nothing(node: Node) -> None:
    environment = serving_environment()
    with as_system():
        key, _ = factories.make_api_key(environment.tenant)
        Tenant.objects.filter(id=environment.tenant_id).update(
            state=Tenant.State.SUSPENDED, suspended_reason="unpaid", version=2
        )
    routing.republish()
    assert node.fact(f"route/{environment.id}") is not None
    assert node.fact(f"credential/{environment.tenant_id}/{key.id}") is not None
    assert node.fact(f"suspension/{environment.tenant_id}/") is not None
    assert routing.republish() == 0


def test_redis_emptied_gets_everything_again_under_a_new_epoch(node: Node) -> None:
    environment = serving_environment()
    routing.republish()
    before = node.epoch
    assert before
    node.client.flushdb()
    routing.republish()
    assert node.fact(f"route/{environment.id}") is not None
    assert node.epoch not in {None, before}
    kept = node.epoch
    routing.republish()
    assert node.epoch == kept


def test_a_redis_that_knows_later_versions_is_overtaken(node: Node) -> None:
    environment = serving_environment()
    with as_system():
        [route] = routing.compose_routes(Environment.objects.filter(id=environment.id))
    node.client.hset(KEYS.facts, f"{route.key}#v", 50)
    routing.republish()
    fact = node.fact(route.key)
    assert fact is not None
    assert fact.version > 50


def test_a_gone_route_the_data_plane_missed_is_withdrawn_by_the_sweep(node: Node) -> None:
    environment = serving_environment()
    published(environment)
    with as_system():
        Environment.objects.filter(id=environment.id).update(state=Environment.State.RETIRED, route_version=2)
        Server.objects.filter(id=environment.server_id).update(state=Server.State.RETIRED)
    routing.republish()
    assert node.fact(f"route/{environment.id}") is None
