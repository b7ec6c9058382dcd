"""How many probes a minute one core carries: claim, probe and record, against a gateway that answers at once.

CPU is what the monitoring process used (user and system), without Postgres; by the clock, everything counts that shares this machine. A
legacy probe is three requests. With 1 % of the servers hanging, the others' outcomes count, up to the last of them. Peer in the
same run: the same requests sent with httpx, the control plane's usual client.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
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

    from hosting.models import DeploymentTarget, HealthState, Release
    from hosting.monitoring.rounds import run_round
    from smcp.common.tenancy import as_system

    _seed()
    run_round(now=timezone.now())  # warms up
    modern = _rounds(ROUNDS)
    with as_system():
        healthy = HealthState.objects.filter(state="healthy").count()
    assert healthy == ENVIRONMENTS, f"{healthy} of {ENVIRONMENTS} turned healthy"
    peer_ms = _peer_cpu_ms()
    figure("CPU of a probe, with claim and record", modern.cpu_ms, "ms")
    goal = 10_000
    figure("probes a minute on one core", round(60_000 / modern.cpu_ms), "/min", goal=goal, better="higher")
    figure("probes a minute by the clock", round(modern.a_minute), "/min")
    figure("CPU of the bare request through httpx", peer_ms, "ms")
    figure("a whole probe beside that", modern.cpu_ms / peer_ms, "×")
    with as_system():
        Release.objects.filter(id__in=DeploymentTarget.objects.values("release_id")).update(eras=["legacy"])
    legacy = _rounds(1, era="legacy")
    figure("CPU of a legacy probe, three requests", legacy.cpu_ms, "ms")
    figure("legacy probes a minute by the clock", round(legacy.a_minute), "/min")
    with as_system():
        Release.objects.update(eras=["modern"])
    hanging = _rounds(1, hanging=ENVIRONMENTS // 100)
    figure("probes a minute by the clock, 1 % hang", round(hanging.a_minute), "/min")
    figure("the same without them", round(modern.a_minute), "/min")


@dataclass(frozen=True, kw_only=True)
class Run:
    """What probing everybody took: CPU of this process a probe, and probes by the clock until the last answer was recorded."""

    cpu_ms: float
    a_minute: float


def _rounds(count: int, *, era: str = "modern", hanging: int = 0) -> Run:
    """Probes everybody `count` times. Those that hang are not waited for: measured is what the others get."""
    from django.utils import timezone

    from hosting.models import HealthState, Probe
    from hosting.monitoring.rounds import run_round
    from smcp.common.tenancy import as_system

    cpu, elapsed, probed = 0.0, 0.0, 0
    for _ in range(count):
        with as_system():
            HealthState.objects.update(next_probe_at=timezone.now())
            Probe.objects.all().delete()
            slugs = HealthState.objects.order_by("?").values_list("environment__server__slug", flat=True)
            _hang(list(slugs[:hanging]))

        def is_done() -> bool:
            with as_system():
                return bool(hanging) and Probe.objects.count() >= ENVIRONMENTS - hanging

        began, began_cpu = time.perf_counter(), _cpu_s()
        run_round(now=timezone.now(), should_stop=is_done)
        cpu += _cpu_s() - began_cpu
        elapsed += time.perf_counter() - began
        probed += ENVIRONMENTS - hanging
        with as_system():
            recorded = Probe.objects.filter(is_ok=True, era=era).count()
        assert recorded >= ENVIRONMENTS - hanging, f"{recorded} of {ENVIRONMENTS} were answered and recorded"
    return Run(cpu_ms=cpu / probed * 1000, a_minute=probed / elapsed * 60)


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

    hanging: set[str] = set()
    results = {
        "server/discover": {"supportedVersions": ["2026-07-28"]},
        "initialize": {"protocolVersion": "2025-11-25", "capabilities": {}},
    }

    async def handle(request: web.Request) -> web.Response:
        if request.method == "DELETE":
            return web.Response(status=200)
        method = json.loads(await request.read()).get("method")
        if request.match_info["server"].partition("~")[0] in hanging:
            await asyncio.Event().wait()
        headers = {"mcp-session-id": "s-1"} if method == "initialize" else {}
        body = {"jsonrpc": "2.0", "id": 1, "result": results.get(method, {})}
        return web.json_response(body, headers=headers)

    async def hang(request: web.Request) -> web.Response:
        hanging.clear()
        hanging.update(await request.json())
        return web.Response()

    async def serve() -> None:
        app = web.Application()
        app.router.add_route("*", "/{tenant}/{server}/mcp", handle)
        app.router.add_post("/hang", hang)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
        await asyncio.to_thread(stop.wait)
        await runner.cleanup()

    asyncio.run(serve())


def _hang(slugs: list[str]) -> None:
    """From now on these Servers do not answer, and all others do."""
    import httpx
    from django.conf import settings

    httpx.post(f"{settings.GATEWAY_URL}/hang", json=slugs, trust_env=False).raise_for_status()


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
