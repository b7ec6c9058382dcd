"""Who is served next, and that many workers share the work without stepping on each other."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.utils import timezone

from hosting.models import UNFINISHED, Environment, Operation
from hosting.provisioning import engine
from smcp.common.tenancy import as_system
from tenants.models import Tenant
from tests import factories
from tests.hosting.provisioning.workers import StartWorker
from tests.hosting.provisioning.world import LONG_AGO, World
from tests.waiting import wait_for

Make = Callable[[], World]


@pytest.fixture(autouse=True)
def nothing_else_is_due(committed_db: None) -> None:
    """Operations other tests left unfinished stay where they are."""
    with as_system():
        Operation.objects.filter(state__in=UNFINISHED).update(
            due_at=timezone.now() + timedelta(days=1), lease_until=None
        )


def with_environments(world: World, count: int) -> list[World]:
    """The same tenant and Server, with `count` Environments of its own."""
    with as_system():
        made = [
            factories.make_environment(world.server, world.account, f"e{n}", route_version=1)
            for n in range(count)
        ]
    return [World(edge=world.edge, account=world.account, server=world.server, environment=e) for e in made]


def test_a_tenant_with_much_to_do_does_not_keep_others_waiting(make: Make) -> None:
    busy, quiet = make(), make()
    version = busy.version(bindings=[])
    for each in with_environments(busy, 8):
        each.begin_deploy((version, 100))
    late = quiet.begin_deploy((quiet.version(bindings=[]), 100))
    with as_system():
        Tenant.objects.filter(id__in=[busy.tenant_id, quiet.tenant_id]).update(last_served_at=LONG_AGO)
    turns = 0
    while quiet.again(late).finished_at is None:
        assert engine.run_next(owner="test")
        turns += 1
    assert turns <= 2
    with as_system():
        waiting = Operation.objects.filter(tenant_id=busy.tenant_id, state="pending").count()
    assert waiting >= 7
    while engine.run_next(owner="test"):
        pass


def test_an_operation_is_held_by_one_worker_at_a_time(world: World) -> None:
    operation = world.begin_deploy((world.version(bindings=[]), 100))
    now = timezone.now()
    first = engine.claim(owner="one", now=now)
    assert first is not None
    assert first.operation_id == operation.id
    assert engine.claim(owner="two", now=now) is None
    later = now + timedelta(days=1)
    with as_system():
        Operation.objects.exclude(id=operation.id).filter(state__in=UNFINISHED).update(
            due_at=later + timedelta(days=1)
        )
    second = engine.claim(owner="two", now=later)
    assert second is not None
    assert second.fence == first.fence + 1
    with pytest.raises(engine.LostLease), first.transaction():
        pass
    with second.transaction():
        pass
    with as_system():
        Operation.objects.filter(id=operation.id).update(lease_until=None)
    world.run(operation)


def test_many_operations_on_many_workers_all_end_well(world: World, start_worker: StartWorker) -> None:
    two_workers = [start_worker(concurrency=2) for _ in range(2)]
    version = world.version(bindings=[{"type": "kv_namespace", "name": "NOTES"}])
    operations = [each.begin_deploy((version, 100)) for each in with_environments(world, 8)]

    def all_finished() -> bool:
        for worker in two_workers:
            assert worker.process.poll() is None, worker.log
        with as_system():
            return not Operation.objects.filter(
                id__in=[operation.id for operation in operations], finished_at=None
            ).exists()

    wait_for(all_finished, 90, what="eight deployments")
    with as_system():
        states = set(
            Operation.objects.filter(id__in=[o.id for o in operations]).values_list("state", flat=True)
        )
        served = Environment.objects.filter(server=world.server, deployments__is_active=True).count()
    assert states == {Operation.State.SUCCEEDED}
    assert served == 8
    assert world.in_account() == world.in_ledger()
    assert all("surprise" not in worker.log for worker in two_workers)
