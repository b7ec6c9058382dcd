"""What a server that misbehaves costs its neighbours: their p99 beside its own, undisturbed, in the same run.

Each hostile server is a process of its own and has callers who never stop asking it. Two neighbours go on meanwhile, on a stub that
answers at once: another tenant's Server, and another Server of the same tenant. Disturbed and undisturbed take turns of a second (the hostile
server and its callers are held still by SIGSTOP), so that whatever else the machine does meets both alike; both have the lowest
priority, since their own hunger for the processor is no doing of the gateway's. `python -m tests.bench.neighbours <hostility> …` measures those only.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import psutil

from hosting.dataplane.contract import Limits
from tests.bench import figure
from tests.bench.proxy import new_world, stub_dispatch
from tests.dataplane.harness import OTHER_TENANT, StandInProcess, World, call_of
from tests.dataplane.hostile import HOSTILITIES, Callers, Measured, measure, raw_request
from tests.waiting import wait_for

CALLERS = 32
WARM_S, TURN_S, TURNS = 3.0, 1.0, 8
GOAL = 1.5
LIMITS = Limits(answer_timeout_s=3.0, answer_budget_s=5.0)


def main() -> None:
    """Reports the figures."""
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="smcp-bench-"))
        stack.callback(shutil.rmtree, directory)
        world, upstream = new_world(stack, directory)
        hostile = StandInProcess(directory)
        hostile.start()
        stack.callback(hostile.stop)
        requests = {}
        for name, tenant in (("other_tenant", OTHER_TENANT), ("same_tenant", "t" * 26)):
            route = world.server(
                f"near-{name.partition('_')[0]}", tenant=tenant, dispatch=stub_dispatch(upstream)
            )
            caller = world.at(world.url(route), world.key(tenant=tenant))
            opened = caller.initialize()
            assert opened.status_code == 200, opened.text
            requests[name] = raw_request(caller, call_of("add", a=1, b=41), origin=world.gateway.url)
        port = world.gateway.port
        measure(port, requests, for_s=WARM_S)
        for hostility in sys.argv[1:] or HOSTILITIES:
            _disturb(world, hostile, hostility, requests, directory)


def _disturb(
    world: World, hostile: StandInProcess, hostility: str, requests: dict[str, bytes], directory: Path
) -> None:
    port = world.gateway.port
    hostile.answer_raw(**HOSTILITIES[hostility])
    route = world.server(
        f"hostile-{hostility.replace('_', '-')}",
        world.target("broken"),
        dispatch=hostile.raw_dispatch,
        limits=LIMITS,
    )
    hostile.forget()
    quiet, loud = _measured(requests), _measured(requests)
    callers = Callers(world, world.at(world.url(route), world.key()), CALLERS, directory)
    processes = [psutil.Process(pid) for pid in (callers.pid, hostile.pid)]
    try:
        wait_for(lambda: hostile.raw_seen, what="the callers to have begun")
        for process in processes:
            process.nice(19)
        for _ in range(TURNS):
            _add(loud, measure(port, requests, for_s=TURN_S))
            for process in processes:
                process.suspend()
            _add(quiet, measure(port, requests, for_s=TURN_S))
            for process in processes:
                process.resume()
    finally:
        callers.stop()
        hostile.answer_raw(b"")
    for name in requests:
        loud_ms, quiet_ms = loud[name].percentile_ms(0.99), quiet[name].percentile_ms(0.99)
        figure(f"neighbours.{hostility}.{name}.p50_ms", loud[name].percentile_ms(0.5), "ms")
        figure(f"neighbours.{hostility}.{name}.p99_ms", loud_ms, "ms")
        figure(f"neighbours.{hostility}.{name}.p99_ratio", loud_ms / quiet_ms, "×", goal=GOAL)


def _measured(requests: dict[str, bytes]) -> dict[str, Measured]:
    return {name: Measured() for name in requests}


def _add(into: dict[str, Measured], more: dict[str, Measured]) -> None:
    """Raises AssertionError for a request that failed."""
    for name, each in more.items():
        assert not each.failures, each.failures[0]
        into[name].waits += each.waits


if __name__ == "__main__":
    main()
