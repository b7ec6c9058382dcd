"""How long a deployment takes from the wish to the published Route, a rollback, and the sweep over ten thousand Routes.

Real Postgres, Redis and edge; one worker process takes the wake-ups, as in production. The first deployment of an Environment makes a
KV namespace, a bucket and a database, uploads the code and waits for its first answer; a rollback is a change of Route.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from tests import parts as real_parts
from tests.bench import figure

DEPLOYMENTS = 20
ROUTES = 10_000


def main() -> None:
    """Reports the figures."""
    parts = real_parts.plan_parts()
    with ExitStack() as stack:
        stack.callback(real_parts.forget_parts, parts)
        for start in (real_parts.start_postgres, real_parts.start_redis):
            stack.callback(start(parts).stop)
        edge = real_parts.PlatformEdge(parts)
        edge.start()
        stack.callback(edge.stop)
        migrate = [sys.executable, "manage.py", "migrate", "--no-input", "--verbosity=0"]
        subprocess.run(migrate, cwd=real_parts.ROOT, env=parts.environ("owner"), check=True)
        os.environ.update(parts.environ("system"), SMCP_LOG_LEVEL="WARNING")
        import django

        django.setup()
        from tests.hosting.provisioning.workers import Worker

        worker = Worker(parts, Path(parts.var), concurrency=2)
        stack.callback(worker.kill)
        _deploy(edge)
        worker.kill()
        _sweep()


def _deploy(edge: real_parts.PlatformEdge) -> None:
    from django.conf import settings
    from django.utils import timezone

    from hosting.models import Operation
    from hosting.provisioning.accounts import ensure_account
    from tests.hosting.provisioning.world import World, make_world
    from tests.waiting import wait_for

    account = ensure_account(
        name="bench",
        cloudflare_account_id=edge.account_id,
        token=edge.token,
        api_base_url=edge.api_url,
        dispatch_url=settings.DISPATCH_URL,
        dispatch_host=settings.DISPATCH_HOST,
        now=timezone.now(),
    )

    def took_s(world: World, operation: Operation) -> float:
        began = time.perf_counter()
        wait_for(lambda: world.again(operation).finished_at, 60)
        elapsed = time.perf_counter() - began
        ended = world.again(operation)
        assert ended.state == Operation.State.SUCCEEDED, ended.error
        return elapsed

    firsts, rollbacks = [], []
    for number in range(DEPLOYMENTS + 1):
        world = make_world(edge, account)
        old, new = world.version(), world.version()
        first = took_s(world, world.begin_deploy((old, 100)))
        took_s(world, world.begin_deploy((new, 100)))
        rollback = took_s(world, world.begin_deploy((old, 100)))
        if number:  # the first one warms the worker up
            firsts.append(first)
            rollbacks.append(rollback)
    figure("first deployment, p50", statistics.median(firsts), "s", goal=2)
    figure("first deployment, p95", statistics.quantiles(firsts, n=20)[-1], "s")
    figure("rollback, p50", statistics.median(rollbacks), "s", goal=1)
    figure("rollback, p95", statistics.quantiles(rollbacks, n=20)[-1], "s", goal=1)


def _sweep() -> None:
    from hosting import routing
    from hosting.models import Account, Environment
    from smcp.common.tenancy import as_system
    from tests import factories

    with as_system():
        account = Account.objects.get()
        server = factories.make_server(factories.make_tenant())
        Environment.objects.bulk_create(
            Environment(
                tenant_id=server.tenant_id,
                server=server,
                account=account,
                slug=f"e{number}",
                access=["api_key"],
                route_version=1,
            )
            for number in range(ROUTES)
        )
    began = time.perf_counter()
    published = routing.republish()
    figure(f"publish {published} routes anew", time.perf_counter() - began, "s")
    began, began_cpu = time.perf_counter(), time.process_time()
    assert routing.republish() == 0
    figure("sweep of 10,000 routes, nothing new", (time.perf_counter() - began) * 1000, "ms", goal=500)
    figure("its CPU in our process", (time.process_time() - began_cpu) * 1000, "ms")


if __name__ == "__main__":
    main()
