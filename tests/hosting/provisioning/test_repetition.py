"""Every step again, every step failing, every undo again: whatever happens, nothing is there twice and nothing is left over.

A crash is played by putting a step's row back to how a crashed worker would have left it; Cloudflare's failures come from the edge.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hosting.models import Operation, Resource, Step
from smcp.common.tenancy import as_system
from tests.hosting.provisioning.world import World
from tests.waiting import wait_for

Begin = Callable[[World], Operation]

#: Operation of the API → the step of DEPLOY that needs it.
CALLS = {
    "kv.create": "ensure_kv_namespaces",
    "r2.create": "ensure_r2_buckets",
    "d1.create": "ensure_d1_databases",
    "scripts.put": "upload",
}
MANY_ATTEMPTS = 40


def begin_first(world: World) -> Operation:
    return world.begin_deploy((world.version(), 100))


def begin_third(world: World) -> Operation:
    """A deployment that also removes an older release."""
    with as_system():
        type(world.environment).objects.filter(id=world.environment.id).update(releases_kept=1)
    for _ in range(2):
        world.deploy((world.version(), 100))
    return world.begin_deploy((world.version(), 100))


def begin_retire(world: World) -> Operation:
    world.deploy((world.version(), 100))
    [release] = world.serving()
    world.ask(release.script_name, "fill", at="objects", count=3)
    return world.begin_retire()


def run_each_step_twice(world: World, operation: Operation) -> Operation:
    """After every step the worker "crashes" before it could record the outcome, once each way (doing and undoing)."""
    crashed: set[tuple[str, str]] = set()
    while (operation := world.again(operation)).finished_at is None:
        before = world.steps(operation)
        world.one_step(operation)
        for name, state in world.steps(operation).items():
            if state in {"done", "undone"} and before[name] != state and (name, state) not in crashed:
                crashed.add((name, state))
                in_flight = Step.State.STARTED if state == "done" else Step.State.UNDOING
                with as_system():
                    Step.objects.filter(operation=operation, name=name).update(state=in_flight)
    return operation


@pytest.mark.parametrize("begin", [begin_first, begin_third, begin_retire])
def test_every_step_may_be_done_twice(world: World, begin: Begin) -> None:
    operation = run_each_step_twice(world, begin(world))
    assert operation.state == Operation.State.SUCCEEDED, operation.error
    assert set(world.steps(operation).values()) == {"done"}
    assert world.in_account() == world.in_ledger()
    assert world.open_rows() == []
    if operation.kind == Operation.Kind.DEPLOY:
        assert len(world.serving()) == 1


def test_every_undo_may_be_done_twice(world: World) -> None:
    before = world.in_account()
    world.variables(NO_MCP="1")
    operation = run_each_step_twice(world, begin_first(world))
    assert operation.state == Operation.State.FAILED
    assert set(world.steps(operation).values()) == {"undone", "pending"}
    assert world.in_account() == before
    assert world.open_rows() == []
    assert world.in_ledger(of_all=False) == set()


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", ["refused", "broken", "dropped", "lost"])
def test_a_step_that_fails_for_good_leaves_nothing(world: World, call: str, kind: str) -> None:
    before = world.in_account()
    operation = begin_first(world)
    faults = {
        "refused": {"kind": "status", "status": 400, "code": 10001, "message": "No such luck."},
        "broken": {"kind": "status", "status": 502},
        "dropped": {"kind": "drop"},
        "lost": {"kind": "lost_answer"},
    }
    world.fault(call, **faults[kind])  # type: ignore[arg-type]
    if kind == "lost":
        # The call works and its answer is lost; looking it up does not work either, so nobody knows.
        for look_up in ("kv.list", "r2.get", "d1.list"):
            world.fault(look_up, "drop")
    for _ in range(MANY_ATTEMPTS):
        if (operation := world.again(operation)).state == Operation.State.UNWINDING:
            break
        world.one_step(operation)
    assert operation.state == Operation.State.UNWINDING
    assert operation.error is not None
    assert operation.error["step"] == CALLS[call]
    world.no_faults()
    operation = world.run(operation)
    assert operation.state == Operation.State.FAILED
    assert world.in_account() == before
    assert world.open_rows() == []
    assert world.in_ledger(of_all=False) == set()


@pytest.mark.parametrize("kind", ["status", "drop", "lost_answer"])
def test_failures_that_pass_are_got_over(world: World, kind: str) -> None:
    for call in CALLS:
        world.fault(call, kind, status=503, times=3)
    operation = world.run(begin_first(world))
    assert operation.state == Operation.State.SUCCEEDED, operation.error
    assert world.in_account() == world.in_ledger()
    with as_system():
        rows = Resource.objects.filter(tenant_id=world.tenant_id, state=Resource.State.LIVE)
        assert rows.count() == 4


@pytest.mark.parametrize("kind", ["status", "drop", "lost_answer"])
def test_retiring_gets_over_every_failure(world: World, kind: str) -> None:
    operation = begin_retire(world)
    for call in ("scripts.delete", "kv.delete", "d1.delete", "r2.delete", "scripts.put"):
        world.fault(call, kind, status=503, times=3)
    operation = world.run(operation)
    assert operation.state == Operation.State.SUCCEEDED, operation.error
    assert world.in_account() == world.in_ledger()
    assert world.in_ledger(of_all=False) == set()
    assert world.open_rows() == []


def test_undoing_does_not_give_up_while_cloudflare_is_away(world: World) -> None:
    before = world.in_account()
    world.variables(THROWS="1")
    operation = begin_first(world)
    world.fault("kv.delete", "drop")

    def is_undoing() -> bool:
        world.one_step(operation)
        return world.steps(operation)["ensure_kv_namespaces"] == "undoing"

    wait_for(is_undoing, 30)
    for _ in range(12):
        world.one_step(operation)
    assert world.again(operation).state == Operation.State.UNWINDING
    world.no_faults()
    assert world.run(operation).state == Operation.State.FAILED
    assert world.in_account() == before


def test_what_could_not_be_removed_after_the_pivot_does_not_spoil_the_deployment(world: World) -> None:
    operation = begin_third(world)
    world.fault("scripts.delete", "status", status=400, code=10001, message="No such luck.")
    operation = world.run(operation)
    assert operation.state == Operation.State.SUCCEEDED
    assert world.steps(operation)["remove_releases"] == "failed"
    [leaving] = world.open_rows()
    assert leaving.state == Resource.State.DELETING
    world.no_faults()
    world.deploy((world.version(), 100))
    assert world.open_rows() == []
    assert world.in_account() == world.in_ledger()
