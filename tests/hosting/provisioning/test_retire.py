"""RETIRE: nothing of the Server stays, however much there is; nobody else loses anything."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.utils import timezone

from hosting.cloudflare.port import ResourceKind
from hosting.models import (
    Environment,
    HealthState,
    Incident,
    Operation,
    Release,
    Resource,
    Secret,
    Server,
)
from hosting.operations.deployments import retire_environment
from hosting.operations.rows import ServerGone
from smcp.common.tenancy import as_system
from tests import factories
from tests.hosting.provisioning.test_deploy import route_of
from tests.hosting.provisioning.world import World

Make = Callable[[], World]


def bucket_of(world: World) -> Resource:
    with as_system():
        return Resource.objects.get(tenant_id=world.tenant_id, kind=ResourceKind.R2_BUCKET)


def test_a_retired_server_leaves_nothing_and_its_neighbour_keeps_everything(make: Make) -> None:
    world, neighbour = make(), make()
    world.secret("SECRET", "s")
    for each in (world, neighbour):
        each.deploy((each.version(), 100))
        with as_system():
            factories.make_health(each.environment, "unhealthy")
            factories.make_incident(each.environment, started_at=timezone.now())
    kept = neighbour.in_ledger(of_all=False)
    operation = world.run(world.begin_retire())
    assert operation.state == Operation.State.SUCCEEDED, operation.error
    assert world.in_ledger(of_all=False) == set()
    assert world.open_rows() == []
    assert world.in_account() == world.in_ledger()
    assert kept <= world.in_account()
    assert route_of(world) is None
    assert route_of(neighbour) is not None
    with as_system():
        assert Server.objects.get(id=world.server.id).state == Server.State.RETIRED
        assert Environment.objects.get(id=world.environment.id).state == Environment.State.RETIRED
        assert not Secret.objects.filter(tenant_id=world.tenant_id).exists()
        assert not HealthState.objects.filter(tenant_id=world.tenant_id).exists()
        assert not Incident.objects.filter(tenant_id=world.tenant_id, ended_at=None).exists()
        assert Incident.objects.filter(tenant_id=neighbour.tenant_id, ended_at=None).exists()
        assert {release.state for release in world.releases()} == {Release.State.REMOVED}
    with pytest.raises(ServerGone):
        world.begin_retire()


def test_the_route_is_withdrawn_before_anything_is_removed(world: World) -> None:
    world.deploy((world.version(), 100))
    before = world.in_account()
    operation = world.begin_retire()
    world.one_step(operation)
    assert route_of(world) is None
    assert world.in_account() == before
    world.run(operation)


def test_one_environment_can_be_retired_alone(world: World) -> None:
    with as_system():
        staging = factories.make_environment(world.server, world.account, "staging", route_version=1)
    world.deploy((world.version(), 100))
    kept = world.in_ledger(of_all=False)
    other = World(edge=world.edge, account=world.account, server=world.server, environment=staging)
    other.deploy((other.version(), 100))
    operation = retire_environment(
        tenant_id=world.tenant_id, actor="system", environment_id=staging.id, now=timezone.now()
    )
    assert world.run(operation).state == Operation.State.SUCCEEDED
    assert world.in_ledger(of_all=False) == kept
    assert world.in_account() == world.in_ledger()
    with as_system():
        assert Server.objects.get(id=world.server.id).state == Server.State.ACTIVE


def test_a_server_that_never_was_deployed_is_retired_too(world: World) -> None:
    assert world.run(world.begin_retire()).state == Operation.State.SUCCEEDED


def test_a_janitor_that_vanished_is_sent_again(world: World) -> None:
    world.deploy((world.version(), 100))
    [release] = world.serving()
    world.ask(release.script_name, "fill", at="x", count=5)
    bucket = bucket_of(world)
    with as_system():
        # As a crash leaves it when the janitor had just been removed: the row still says it is there, and has been for long.
        Resource.objects.filter(id=bucket.id).update(
            state=Resource.State.DELETING, progress={"janitor_at": 0, "objects_removed": 0}
        )
    assert world.run(world.begin_retire()).state == Operation.State.SUCCEEDED
    assert bucket_of(world).state == Resource.State.DELETED
    assert world.in_account() == world.in_ledger()
