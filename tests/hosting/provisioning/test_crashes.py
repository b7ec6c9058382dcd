"""Workers die, hang and are told to stop in the middle of things. Whatever the instant, the Operation converges and the account
holds exactly what the ledger says.

A step is held open from outside: the edge is slow to begin with one call, or late to answer what it has carried out; the code under
deployment is slow; or a row the step needs is locked. Nobody is killed before it is seen from outside that the call is under way.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import psycopg
import pytest

from hosting import names
from hosting.cloudflare.port import ResourceKind
from hosting.models import Environment, Operation, Release, Resource, Step
from smcp.common.tenancy import as_system
from tests.hosting.provisioning.test_durable_objects import durable, stable_script, with_ledger
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


#: Whether a step is in the middle of what it does.
Seen = Callable[[], bool]


@contextmanager
def held_open(parts: Parts, world: World, operation: Operation, step: str) -> Iterator[Seen]:
    """Inside the block, `step` begins and does not get to its end."""
    if step in CALLS:
        with call_held_open(world, CALLS[step], "latency") as seen:
            yield seen
    elif step == "choose_names":
        with row_locked(parts, "hosting_environment", world.environment.id):
            yield lambda: waits_for_a_lock(parts)
    elif step == "publish":
        with as_system():
            active = world.environment.deployments.get(is_active=True)
        with row_locked(parts, "hosting_deployment", active.id):
            yield lambda: waits_for_a_lock(parts)
    elif step == "probe":
        yield lambda: state_of(operation, step) == "started" and world.is_being_asked()
    else:
        yield lambda: state_of(operation, step) == "started"  # slow by itself: the drain time


@contextmanager
def call_held_open(world: World, call: str, kind: str) -> Iterator[Seen]:
    """`latency`: the edge has the request and has not begun with it. `late`: all is done and nobody was told yet."""
    fault = world.fault(call, kind, delay_s=HOLD_S if kind == "latency" else 600)
    yield lambda: world.is_carried_out(fault) if kind == "late" else world.has_fired(fault)
    world.no_faults()


def state_of(operation: Operation, step: str) -> str:
    with as_system():
        return Step.objects.get(operation=operation, name=step).state


def kill_when(victim: Worker, seen: Seen, operation: Operation, step: str, state: str = "started") -> None:
    """In the middle of the step, which is not recorded as done."""
    wait_for(seen, 40, what=f"{step} to be under way")
    victim.kill()
    assert state_of(operation, step) == state


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


def assert_third_came_true(world: World, operation: Operation) -> None:
    assert operation.state == Operation.State.SUCCEEDED, operation.error
    assert set(world.steps(operation).values()) == {"done"}
    assert world.in_account() == world.in_ledger()
    assert world.open_rows() == []
    [serving] = world.serving()
    standing = [release for release in world.releases() if release.state != Release.State.REMOVED]
    assert standing[-1] == serving
    assert len(standing) == 2
    assert world.ask(serving.script_name, "see")["bindings"] == ["FILES", "NOTES", "ROWS", "SLOW_MS"]


@pytest.mark.acceptance("P8")
@pytest.mark.parametrize("step", STEPS)
def test_a_worker_killed_during_a_step_costs_nothing(
    parts: Parts, world: World, third: Operation, start_worker: StartWorker, step: str
) -> None:
    with held_open(parts, world, third, step) as seen:
        victim = start_worker(SMCP_DRAIN_S=1 if step == "drain" else 0)
        kill_when(victim, seen, third, step)
    assert world.again(third).finished_at is None
    assert_third_came_true(world, wait_finished(world, third, start_worker()))


@pytest.mark.acceptance("P8")
@pytest.mark.parametrize("step", CALLS)
def test_a_worker_killed_after_a_call_was_carried_out_and_before_it_knew_costs_nothing(
    world: World, third: Operation, start_worker: StartWorker, step: str
) -> None:
    with call_held_open(world, CALLS[step], "late") as seen:
        kill_when(start_worker(), seen, third, step)
        if step != "remove_releases":  # what is being removed stands in the ledger no more
            assert world.in_account() != world.in_ledger()
    assert_third_came_true(world, wait_finished(world, third, start_worker()))


#: Step of DEPLOY → the call that undoes it.
UNDOING = {
    "upload": "scripts.delete",
    "ensure_d1_databases": "d1.delete",
    "ensure_r2_buckets": "r2.delete",
    "ensure_kv_namespaces": "kv.delete",
}


@pytest.mark.acceptance("P8")
@pytest.mark.parametrize(("step", "kind"), [("upload", "latency"), *((step, "late") for step in UNDOING)])
def test_a_worker_killed_while_undoing_a_step_leaves_nothing(
    world: World, start_worker: StartWorker, step: str, kind: str
) -> None:
    before = world.in_account()
    world.variables(NO_MCP="1")
    operation = world.begin_deploy((world.version(), 100))
    with call_held_open(world, UNDOING[step], kind) as seen:
        kill_when(start_worker(), seen, operation, step, "undoing")
        assert world.again(operation).state == Operation.State.UNWINDING
    operation = wait_finished(world, operation, start_worker())
    assert operation.state == Operation.State.FAILED
    assert operation.error is not None
    assert operation.error["step"] == "probe"
    assert set(world.steps(operation).values()) == {"undone", "pending"}
    assert world.in_account() == before
    assert world.in_ledger(of_all=False) == set()
    assert world.open_rows() == []


@pytest.mark.acceptance("P8")
@pytest.mark.parametrize("kind", ["latency", "late"])
def test_a_worker_killed_while_it_replaces_code_with_durable_objects_goes_on(
    world: World, start_worker: StartWorker, kind: str
) -> None:
    """The upload is the pivot: there is no way back, and a migration that has run must not run again."""
    world.deploy((durable(world, 1), 100))
    script = stable_script(world)
    assert world.ask(script.name, "count") == {"n": 1, "version": 1}
    operation = world.begin_deploy((with_ledger(world, 2), 100))
    assert operation.context["pivot"] == "upload"
    with call_held_open(world, "scripts.put", kind) as seen:
        kill_when(start_worker(), seen, operation, "upload")
        assert stable_script(world).progress["migration_tag"] == "v1"
    operation = wait_finished(world, operation, start_worker())
    assert operation.state == Operation.State.SUCCEEDED, operation.error
    assert set(world.steps(operation).values()) == {"done"}
    assert stable_script(world).progress["migration_tag"] == "v2"
    assert world.ask(script.name, "count") == {"n": 2, "version": 2}
    assert [release.script_name for release in world.serving()] == [script.name]
    assert world.in_account() == world.in_ledger()
    assert world.open_rows() == []


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
    with held_open(parts, world, third, "publish") as seen:
        frozen = start_worker()
        wait_for(seen, 40, what="the transaction to be under way")
        frozen.signal(signal.SIGSTOP)
    other = start_worker()
    operation = wait_finished(world, third, other)
    assert operation.state == Operation.State.SUCCEEDED, operation.error
    frozen.signal(signal.SIGCONT)
    assert world.in_account() == world.in_ledger()


def test_a_worker_told_to_stop_finishes_its_step_and_lets_go(
    world: World, third: Operation, start_worker: StartWorker
) -> None:
    fault = world.fault("kv.create", "latency", delay_s=HOLD_S)
    worker = start_worker()
    wait_for(lambda: world.has_fired(fault), 40, what="the call to be under way")
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
    fault = world.fault("kv.create", "latency", delay_s=HOLD_S)
    victim = start_worker()
    wait_for(lambda: world.has_fired(fault), 40, what="the call to be under way")
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
