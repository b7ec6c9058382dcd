"""What a server that misbehaves costs its neighbours: their p99 beside its own, undisturbed, in the same run.

Each hostile server is a process of its own and has callers who never stop asking it. Two neighbours go on meanwhile, on a stub that
answers at once: another tenant's Server, and another Server of the same tenant. Undisturbed is measured before and after each; their
mean is what counts. `make bench` on a machine with other work shows that work.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

from hosting.dataplane.contract import Dispatch, Limits
from tests.bench import figure
from tests.bench.peers import start_stub
from tests.bench.peers.smcp import start_world
from tests.dataplane.harness import AUDIENCE, OTHER_TENANT, StandInProcess, World, call_of
from tests.dataplane.hostile import HOSTILITIES, Callers, measure, raw_request
from tests.waiting import wait_for

CALLERS = 32
QUIET_S, DISTURBED_S = 3.0, 6.0
GOAL = 1.5
LIMITS = Limits(answer_timeout_s=3.0, answer_budget_s=5.0)


def main() -> None:
    """Reports the figures."""
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="smcp-bench-"))
        stack.callback(shutil.rmtree, directory)
        upstream = start_stub(stack, directory)
        world = start_world(stack, directory)
        hostile = StandInProcess(directory)
        hostile.start()
        stack.callback(hostile.stop)
        requests = {}
        for name, tenant in (("other_tenant", OTHER_TENANT), ("same_tenant", "t" * 26)):
            route = world.server(
                f"near-{name.partition('_')[0]}",
                tenant=tenant,
                dispatch=Dispatch(url=upstream, audience=AUDIENCE),
            )
            caller = world.at(world.url(route), world.key(tenant=tenant))
            opened = caller.initialize()
            assert opened.status_code == 200, opened.text
            requests[name] = raw_request(caller, call_of("add", a=1, b=41), origin=world.gateway.url)
        port = world.gateway.port
        measure(port, requests, for_s=QUIET_S)
        for hostility in HOSTILITIES:
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
    before = measure(port, requests, for_s=QUIET_S)
    callers = Callers(world, world.at(world.url(route), world.key()), CALLERS, directory)
    try:
        wait_for(lambda: hostile.raw_seen, what="the callers to have begun")
        during = measure(port, requests, for_s=DISTURBED_S)
    finally:
        callers.stop()
        hostile.answer_raw(b"")
    after = measure(port, requests, for_s=QUIET_S)
    for name in requests:
        assert not during[name].failures, during[name].failures[0]
        quiet_ms = (before[name].percentile_ms(0.99) + after[name].percentile_ms(0.99)) / 2
        loud_ms = during[name].percentile_ms(0.99)
        figure(f"neighbours.{hostility}.{name}.p50_ms", during[name].percentile_ms(0.5), "ms")
        figure(f"neighbours.{hostility}.{name}.p99_ms", loud_ms, "ms")
        figure(f"neighbours.{hostility}.{name}.p99_ratio", loud_ms / quiet_ms, "×", goal=GOAL)


if __name__ == "__main__":
    main()
