"""Workers die, hang and are told to stop in the middle of things. Whatever the instant, the Operation converges and the account
holds exactly what the ledger says.

A step is held open from outside: the edge is slow to answer one call, the code under deployment is slow, or a row it needs is locked.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psycopg
import pytest

from hosting import names
from hosting.cloudflare.port import ResourceKind
from hosting.models import Environment, Operation, Release, Resource, Step
from smcp.common.tenancy import as_system
from tests.hosting.provisioning.workers import LEASE_S, TIMEOUT_S, StartWorker, Worker
from tests.hosting.provisioning.world import World
from tests.parts import Parts
from tests.waiting import wait_for

HOLD_S = TIMEOUT_S * 0.9
STEPS = (
    "choose_names",
    "ensure_kv_namespaces",
    "ensure_r2_buckets",
    "ensure_d1_databases",
    "upload",
    "probe",
    "publish",
    "drain",
    "remove_releases",
)
CALLS = {
    "ensure_kv_namespaces": "kv.create",
    "ensure_r2_buckets": "r2.create",
    "ensure_d1_databases": "d1.create",
    "upload": "scripts.put",
    "remove_releases": "scripts.delete",
}


@contextmanager
def row_locked(parts: Parts, table: str, row_id: str) -> Iterator[None]:
    """Somebody else holds a row the step must write."""
    with psycopg.connect(parts.places.logins.system) as other:
        other.execute("SET ROLE smcp_system")
        other.execute(f"SELECT 1 FROM {table} WHERE id = %s FOR UPDATE", [row_id])
        yield
        other.rollback()


def waits_for_a_lock(parts: Parts) -> bool:
    with psycopg.connect(parts.places.logins.system) as other:
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        return bool(other.execute(waiting).fetchone()[0])  # type: ignore[index]


@contextmanager
def held_open(parts: Parts, world: World, step: str) -> Iterator[None]:
    """Inside the block, `step` begins and does not get to its end."""
    if step in CALLS:
        world.fault(CALLS[step], "latency", delay_s=HOLD_S)
        yield
    elif step == "choose_names":
        with row_locked(parts, "hosting_environment", world.environment.id):
            yield
    elif step == "publish":
        with as_system():
            active = world.environment.deployments.get(is_active=True)
        with row_locked(parts, "hosting_deployment", active.id):
            yield
    else:
        yield  # slow by itself: the code (probe), or the drain time


def wait_started(operation: Operation, step: str) -> None:
    def has_started() -> bool:
        with as_system():
            return Step.objects.filter(operation=operation, name=step).exclude(state="pending").exists()

    wait_for(has_started, 40, what=f"{step} to begin")


def wait_finished(world: World, operation: Operation, worker: Worker) -> Operation:
    def finished() -> Operation | None:
        assert worker.process.poll() is None, worker.log
        now = world.again(operation)
        return now if now.finished_at else None

    return wait_for(finished, 60, what="the operation to end")


@pytest.fixture
def third(world: World) -> Operation:
    """A deployment that will create everything, and remove an older release in the end."""
    with as_system():
        Environment.objects.filter(id=world.environment.id).update(releases_kept=1)
    for _ in range(2):
        world.deploy((world.version(bindings=[]), 100))
    world.variables(SLOW_MS=str(int(HOLD_S * 500)))
    return world.begin_deploy((world.version(), 100))


@pytest.mark.acceptance("P8")
@pytest.mark.parametrize("step", STEPS)
def test_a_worker_killed_during_a_step_costs_nothing(
    parts: Parts, world: World, third: Operation, start_worker: StartWorker, step: str
) -> None:
    with held_open(parts, world, step):
        victim = start_worker(SMCP_DRAIN_S=1 if step == "drain" else 0)
        wait_started(third, step)
        victim.kill()
    assert world.again(third).finished_at is None
    world.no_faults()
    survivor = start_worker()
    operation = wait_finished(world, third, survivor)
    assert operation.state == Operation.State.SUCCEEDED, operation.error
    assert set(world.steps(operation).values()) == {"done"}
    assert world.in_account() == world.in_ledger()
    assert world.open_rows() == []
    [serving] = world.serving()
    standing = [release for release in world.releases() if release.state != Release.State.REMOVED]
    assert standing[-1] == serving
    assert len(standing) == 2
    assert world.ask(serving.script_name, "see")["bindings"] == ["FILES", "NOTES", "ROWS", "SLOW_MS"]


def test_a_worker_that_was_frozen_past_its_lease_changes_nothing(
    world: World, third: Operation, start_worker: StartWorker
) -> None:
    fault = world.fault("scripts.put", "latency", delay_s=HOLD_S, times=1)
    frozen = start_worker()
    wait_for(lambda: world.has_fired(fault), 40, what="the upload to be under way")
    frozen.signal(signal.SIGSTOP)
    other = start_worker()
    operation = wait_finished(world, third, other)
    assert operation.state == Operation.State.SUCCEEDED, operation.error
    other.kill()
    before = (operation.fence, world.steps(operation), world.in_account(), world.releases())
    frozen.signal(signal.SIGCONT)
    wait_for(lambda: "operation.lease_lost" in frozen.log, 30, what="the frozen worker to notice")
    operation = world.again(third)
    assert (operation.fence, world.steps(operation), world.in_account(), world.releases()) == before
    assert world.in_account() == world.in_ledger()


def test_a_worker_frozen_inside_a_transaction_does_not_keep_the_operation(
    parts: Parts, world: World, third: Operation, start_worker: StartWorker
) -> None:
    with held_open(parts, world, "publish"):
        frozen = start_worker()
        wait_started(third, "publish")
        wait_for(lambda: waits_for_a_lock(parts), 20, what="the transaction to be under way")
        frozen.signal(signal.SIGSTOP)
    other = start_worker()
    operation = wait_finished(world, third, other)
    assert operation.state == Operation.State.SUCCEEDED, operation.error
    frozen.signal(signal.SIGCONT)
    assert world.in_account() == world.in_ledger()


def test_a_worker_told_to_stop_finishes_its_step_and_lets_go(
    world: World, third: Operation, start_worker: StartWorker
) -> None:
    world.fault("kv.create", "latency", delay_s=HOLD_S)
    worker = start_worker()
    wait_started(third, "ensure_kv_namespaces")
    assert worker.stop() == 0
    operation = world.again(third)
    assert operation.state == Operation.State.RUNNING
    assert operation.lease_until is None
    assert world.steps(operation)["ensure_kv_namespaces"] == "done"
    assert world.steps(operation)["upload"] == "pending"
    world.no_faults()
    assert world.run(operation).state == Operation.State.SUCCEEDED


def test_an_operation_is_taken_over_only_after_its_lease(
    world: World, third: Operation, start_worker: StartWorker
) -> None:
    world.fault("kv.create", "latency", delay_s=HOLD_S)
    victim = start_worker()
    wait_started(third, "ensure_kv_namespaces")
    held = world.again(third)
    victim.kill()
    assert held.lease_until is not None
    with as_system():
        step = Step.objects.get(operation=held, name="ensure_kv_namespaces")
    assert step.started_at is not None
    assert (held.lease_until - step.started_at).total_seconds() <= LEASE_S
    world.no_faults()
    survivor = start_worker()
    survivor.wait_ready()
    with ExitStack() as stack:
        stack.callback(survivor.kill)
        wait_for(lambda: world.again(third).fence > held.fence, 30, what="the takeover")
        operation = wait_finished(world, third, survivor)
    assert operation.state == Operation.State.SUCCEEDED


def test_a_bucket_with_ten_thousand_objects_is_emptied_although_the_worker_dies_on_the_way(
    world: World, start_worker: StartWorker
) -> None:
    world.deploy((world.version(), 100))
    [release] = world.serving()
    for part in range(5):
        world.ask(release.script_name, "fill", at=f"part-{part}", count=2000)
    operation = world.begin_retire()

    def bucket() -> Resource:
        with as_system():
            return Resource.objects.get(tenant_id=world.tenant_id, kind=ResourceKind.R2_BUCKET)

    victim = start_worker()
    wait_for(lambda: bucket().progress.get("objects_removed", 0) >= 1000, 60, what="a first thousand to go")
    victim.kill()
    assert bucket().progress["objects_removed"] < 10_000
    survivor = start_worker()
    operation = wait_finished(world, operation, survivor)
    assert operation.state == Operation.State.SUCCEEDED, operation.error
    assert bucket().state == Resource.State.DELETED
    assert names.janitor_name(bucket().id) not in world.in_account()
    assert world.in_account() == world.in_ledger()
    assert world.open_rows() == []
