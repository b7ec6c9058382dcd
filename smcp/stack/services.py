"""The table of our own processes: what each is started with, when it counts as ready, and what it needs before it.

Postgres and Redis are described in modules of their own. A process of ours is added here, once, and nowhere else.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from smcp.queues import queues_of
from smcp.stack.config import LOOPBACK, Config
from smcp.stack.environ import Places, control_environ, edge_environ, gateway_environ
from smcp.stack.install import ROOT, WORKERD
from smcp.stack.processes import Process
from smcp.stack.ready import Question, answers_http, has_said
from smcp.stack.secrets import Secrets

# Nobody listens to workers' talk among themselves; a heartbeat to a broker that is gone keeps a worker from ending.
QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat")
READY_TIMEOUT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Service:
    """A Process of ours, and the question that tells when it is ready."""

    process: Process
    is_ready: Question
    timeout_s: float = READY_TIMEOUT_S


def edge(config: Config, secrets: Secrets) -> Service:
    """The local Cloudflare with one account. Always on loopback: its API is for the control plane only."""
    ports = ("--api-port", str(config.ports["edge_api"]), "--workers-port", str(config.ports["edge_workers"]))
    places = ("--data", str(config.var / "edge"), "--workerd", str(WORKERD), "--host", LOOPBACK)
    return Service(
        process=_python(
            "edge",
            "-m",
            "edge",
            *ports,
            *places,
            environ=edge_environ({secrets.edge_account_id: secrets.edge_token}),
        ),
        is_ready=answers_http(f"{config.url('edge_api')}/readyz"),
    )


def api(config: Config, places: Places, secrets: Secrets) -> Service:
    """The REST API. Its database login is `smcp_app`, which cannot become anything else."""
    environ = {**control_environ(places, secrets, role="app"), "SMCP_DOOR": "api"}
    return Service(
        process=_granian("api", "asginl", "smcp.asgi:application", config, environ=environ),
        is_ready=answers_http(f"{config.url('api')}/healthz"),
    )


def console(config: Config, places: Places, secrets: Secrets) -> Service:
    """The operators' console."""
    environ = {**control_environ(places, secrets, role="system"), "SMCP_DOOR": "console"}
    return Service(
        process=_granian("console", "asginl", "smcp.asgi:application", config, environ=environ),
        is_ready=answers_http(f"{config.url('console')}/healthz"),
    )


def worker(config: Config, places: Places, secrets: Secrets) -> Service:
    """Operations, one step at a time."""
    process = _worker("worker", queues_of(secrets.installation).operations, places, secrets, concurrency=2)
    return Service(
        process=replace(
            process, death_signal=signal.SIGQUIT
        ),  # QUIT: does not wait for a broker that is gone too
        is_ready=has_said(" ready"),
    )


def checker(config: Config, places: Places, secrets: Secrets) -> Service:
    """Checks of uploads, which somebody waits for."""
    queue = queues_of(secrets.installation).checks
    return _waiting_worker("checker", queue, places, secrets, concurrency=4)


def monitor(config: Config, places: Places, secrets: Secrets) -> Service:
    """Probes: one thread begins them, one sees the last ones of the round before out, one tells the clock so."""
    queue = queues_of(secrets.installation).probes
    return _waiting_worker("monitor", queue, places, secrets, concurrency=3)


def beat(config: Config, places: Places, secrets: Secrets) -> Service:
    """The clock: sweeps and probes."""
    command = ("beat", "--loglevel", "info", "--schedule", str(config.var / "beat"), "--pidfile", "")
    environ = control_environ(places, secrets, role="system")
    return Service(
        process=_celery("beat", command=command, environ=environ), is_ready=has_said("is starting")
    )


def gateway(config: Config, places: Places, secrets: Secrets) -> Service:
    """The data plane."""
    environ = gateway_environ(
        places,
        secrets,
        host=config.bind,
        port=config.ports["gateway"],
        admin_port=config.ports["gateway_admin"],
    )
    return Service(
        process=_python("gateway", "-m", "hosting.dataplane", environ=environ),
        is_ready=answers_http(f"{config.url('gateway_admin')}/readyz"),
    )


def command(name: str, *arguments: str, environ: Mapping[str, str]) -> Process:
    """`manage.py` with `arguments`."""
    return _python(name, "manage.py", *arguments, environ=environ)


def _granian(
    name: str, interface: str, target: str, config: Config, *, environ: Mapping[str, str]
) -> Process:
    address = ("--host", config.bind, "--port", str(config.ports[name]))
    flags = ("--interface", interface, "--workers", "1", "--no-ws", "--log-level", "warning")
    return _python(name, "-m", "granian", *flags, *address, target, environ=environ)


def _waiting_worker(name: str, queue: str, places: Places, secrets: Secrets, *, concurrency: int) -> Service:
    """For work that mostly waits: threads in one process, which needs half the memory of two."""
    process = _worker(name, queue, places, secrets, "--pool", "threads", concurrency=concurrency)
    # KILL: its threads would see their work through, and what they leave behind is found by its claim or its name.
    return Service(process=replace(process, death_signal=signal.SIGKILL), is_ready=has_said(" ready"))


def _worker(
    name: str, queue: str, places: Places, secrets: Secrets, *flags: str, concurrency: int
) -> Process:
    lean = ("--concurrency", str(concurrency), *QUIET, "--hostname", name)
    environ = {
        **control_environ(places, secrets, role="system"),
        "PYTHONWARNINGS": "ignore:You're running the worker",  # as root: whoever does it has decided so
    }
    command = ("worker", "--loglevel", "info", "--queues", queue, *lean, *flags)
    return _celery(name, "--quiet", command=command, environ=environ)


def _celery(name: str, *flags: str, command: tuple[str, ...], environ: Mapping[str, str]) -> Process:
    return _python(name, "-m", "celery", *flags, "--app", "smcp.celery", *command, environ=environ)


def _python(name: str, *arguments: str, environ: Mapping[str, str], directory: Path = ROOT) -> Process:
    return Process(name=name, command=(sys.executable, *arguments), environ=environ, directory=directory)
