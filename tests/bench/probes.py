"""How many probes a minute one core carries: claim, probe and record, against a gateway that answers at once.

CPU is what the monitoring process used (user and system), without Postgres. Peer in the same run: the same requests sent with
httpx, the control plane's usual client.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import resource
import subprocess
import sys
from multiprocessing.synchronize import Event

import psutil

from tests import parts as real_parts
from tests.bench import figure

ENVIRONMENTS = 2_000
ROUNDS = 3
PEER_PROBES = 500


def main() -> None:
    """Reports the figures."""
    parts = real_parts.plan_parts()
    postgres = real_parts.start_postgres(parts)
    stop = multiprocessing.Event()
    port = real_parts.free_port()
    gateway = multiprocessing.Process(target=_gateway, args=(port, stop), daemon=True)
    gateway.start()
    try:
        migrate = [sys.executable, "manage.py", "migrate", "--no-input", "--verbosity=0"]
        subprocess.run(migrate, cwd=real_parts.ROOT, env=parts.environ("owner"), check=True)
        os.environ.update(parts.environ("system"), SMCP_GATEWAY_URL=f"http://127.0.0.1:{port}")
        _wait_for_gateway(port)
        _measure()
    finally:
        stop.set()
        gateway.join(5)
        postgres.stop()
        real_parts.forget_parts(parts)


def _measure() -> None:
    import django

    django.setup()
    from django.utils import timezone

    from hosting.models import HealthState
    from hosting.monitoring.rounds import run_round
    from smcp.common.tenancy import as_system

    _seed()
    run_round(now=timezone.now())  # warms up
    cpu, probed = 0.0, 0
    for _ in range(ROUNDS):
        with as_system():
            HealthState.objects.update(next_probe_at=timezone.now())
        before = _cpu_s()
        while count := run_round(now=timezone.now()):
            probed += count
        cpu += _cpu_s() - before
    with as_system():
        healthy = HealthState.objects.filter(state="healthy").count()
    assert healthy == ENVIRONMENTS, f"{healthy} of {ENVIRONMENTS} turned healthy"
    peer_ms = _peer_cpu_ms()
    probe_ms = cpu / probed * 1000
    figure("CPU of a probe, with claim and record", probe_ms, "ms")
    figure("probes a minute on one core", round(60_000 / probe_ms), "/min", goal=10_000, better="higher")
    figure("CPU of the bare request through httpx", peer_ms, "ms")
    figure("a whole probe beside that", probe_ms / peer_ms, "×")


def _seed() -> None:
    from django.utils import timezone

    from hosting.models import Account, Deployment, DeploymentTarget, Environment, Release, Server, Version
    from smcp.common.ids import new_id
    from smcp.common.tenancy import as_system
    from tenants.models import Tenant

    with as_system():
        account = Account.objects.create(
            name="bench",
            cloudflare_account_id="b" * 32,
            api_base_url="http://127.0.0.1:1",
            token_sealed="",
            dispatch_namespace="n",
            dispatch_url="http://127.0.0.1:1",
        )
        tenant = Tenant.objects.create(slug="bench", name="Bench")
        of = {"tenant_id": tenant.id}
        servers = [Server(**of, slug=f"s{n}", name="s", created_by="system") for n in range(ENVIRONMENTS)]
        Server.objects.bulk_create(servers)
        environments = [Environment(**of, server=s, slug="production", account=account) for s in servers]
        Environment.objects.bulk_create(environments)
        versions = [
            Version(
                **of,
                server=s,
                number=1,
                digest="0" * 64,
                main_module="w.js",
                modules=[],
                compatibility_date=timezone.now().date(),
                size_bytes=0,
                created_by="system",
            )
            for s in servers
        ]
        Version.objects.bulk_create(versions)
        releases = [
            Release(**of, environment=e, version=v, number=1, script_name="s", eras=["modern"])
            for e, v in zip(environments, versions, strict=True)
        ]
        Release.objects.bulk_create(releases)
        deployments = [
            Deployment(
                **of, environment=e, number=1, is_active=True, operation_id=new_id(), created_by="system"
            )
            for e in environments
        ]
        Deployment.objects.bulk_create(deployments)
        DeploymentTarget.objects.bulk_create(
            DeploymentTarget(**of, deployment=d, release=r, percentage=100)
            for d, r in zip(deployments, releases, strict=True)
        )


def _peer_cpu_ms() -> float:
    """CPU of one bare request through httpx, 128 at once, as the prober sends them."""
    import httpx
    from django.conf import settings

    async def send() -> None:
        limits = httpx.Limits(max_connections=128)
        async with httpx.AsyncClient(limits=limits) as client:
            gate = asyncio.Semaphore(128)

            async def one() -> None:
                async with gate:
                    await client.post(f"{settings.GATEWAY_URL}/bench/s0~production/mcp", json={"id": 1})

            await asyncio.gather(*(one() for _ in range(PEER_PROBES)))

    before = _cpu_s()
    asyncio.run(send())
    return (_cpu_s() - before) / PEER_PROBES * 1000


def _gateway(port: int, stop: Event) -> None:
    from aiohttp import web

    answer = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"supportedVersions": ["2026-07-28"]}}).encode()

    async def handle(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=answer, content_type="application/json")

    async def serve() -> None:
        app = web.Application()
        app.router.add_post("/{tenant}/{server}/mcp", handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
        await asyncio.to_thread(stop.wait)
        await runner.cleanup()

    asyncio.run(serve())


def _wait_for_gateway(port: int) -> None:
    from tests.waiting import wait_for

    def listens() -> bool:
        return any(
            c.laddr and c.laddr.port == port and c.status == "LISTEN" for c in psutil.net_connections("tcp")
        )

    wait_for(listens, 10, what="the gateway's stand-in")


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
