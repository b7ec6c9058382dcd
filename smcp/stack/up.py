"""`make up`: the whole platform on this machine, in the foreground, under one supervisor.

It owns every process it starts. The order: Postgres and Redis; the database's roles and migrations, and beside them the
edge; then everything that needs a migrated database, with the demo tenant. Whatever goes wrong, at a start or later,
ends in one sentence, an exit code that is not 0, and nothing left running: there is no half of a platform.

A crash half-way leaves data, never processes (see `keeper`), and each part of a start tolerates being done twice.
"""

from __future__ import annotations

import errno
import json
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from smcp.stack import connect, envfile, guard, migrations, services
from smcp.stack.config import Config, parse_config
from smcp.stack.databases import Logins, ensure_database, ensure_roles
from smcp.stack.environ import Places, control_environ
from smcp.stack.errors import NotReady, ProcessStopped, StackError
from smcp.stack.keeper import keep
from smcp.stack.postgres import DATABASE, Postgres
from smcp.stack.processes import Child, spawn, stop_all
from smcp.stack.redis import Redis, check_answers
from smcp.stack.screen import Screen
from smcp.stack.secrets import Secrets, ensure_secrets, save_secrets
from smcp.stack.services import Service

LOOK_EVERY_S = 0.05
WATCH_EVERY_S = 0.2
DISK_EVERY_S = 5.0
COMMAND_TIMEOUT_S = 300.0
ANSWER_STARTS_WITH = '{"operator"'  # how the line with the password and the key begins: never logged


class Stopping(Exception):
    """Somebody asked us to stop while we were starting."""


class Stack:
    """One run. `run` returns the exit code, and by then everything it started has ended."""

    def __init__(self, config: Config, screen: Screen) -> None:
        self._config = config
        self._screen = screen
        self._children: list[Child] = []
        self._waiting: dict[str, tuple[Child, Service, float]] = {}
        self._look_at_disk_at = 0.0
        self._stop_asked = threading.Event()

    def run(self) -> int:
        started_at = time.monotonic()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop_asked.set())
        try:
            with guard.only_one(self._config.var):
                try:
                    with self._screen.starting():
                        summary = self._start()
                    connect.write_summary(self._config.var / "stack.json", summary)
                    connect.welcome(self._screen, summary, self._config, time.monotonic() - started_at)
                    self._watch()
                except ProcessStopped:
                    # A full disk is why most programs end that ran until now: then that is the sentence to say.
                    guard.check_disk(self._config.var, needed_bytes=guard.LOW_DISK_BYTES)
                    raise
                finally:
                    stop_all(self._children)
        except Stopping:
            pass
        except StackError as exc:
            self._screen.complain(str(exc))
            return 1
        except OSError as exc:
            is_full = exc.errno in {errno.ENOSPC, errno.EDQUOT}
            where = exc.filename or self._config.var
            self._screen.complain(
                f"The disk that holds {self._config.var} is full." if is_full else f"{exc.strerror}: {where}."
            )
            return 1
        self._screen.say("Stopped.")
        return 0

    # ── Starting ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _start(self) -> dict[str, Any]:
        config = self._config
        for name in guard.end_stale(config.var):
            self._screen.log(name, "was left running by an earlier start and has been ended")
        is_first = config.has_own_postgres and not (config.var / "postgres").exists()
        guard.check_disk(
            config.var, needed_bytes=guard.FIRST_START_BYTES if is_first else guard.LOW_DISK_BYTES
        )
        guard.check_ports(config)
        secrets = ensure_secrets(config.var / "secrets.json")
        if config.has_edge:
            self._begin(services.edge(config, secrets))
        redis_url = self._start_redis(secrets)
        logins = self._start_postgres(secrets)
        places = self._places(secrets, logins, redis_url)
        self._begin(services.gateway(config, places, secrets))
        self._migrate(places, secrets)
        for describe in (
            services.api,
            services.console,
            services.worker,
            services.checker,
            services.monitor,
            services.beat,
        ):
            self._begin(describe(config, places, secrets))
        made = self._settle(places, secrets)
        self._await_all()
        return connect.summarise(config, secrets, made)

    def _start_redis(self, secrets: Secrets) -> str:
        """The URL of Redis, ours or somebody else's."""
        if not self._config.has_own_redis:
            check_answers(self._config.redis_url)
            return self._config.redis_url
        redis = Redis(
            directory=self._config.var / "redis",
            port=self._config.ports["redis"],
            password=secrets.redis_password,
        )
        self._begin(Service(process=redis.process(), is_ready=lambda _: redis.is_ready()))
        return redis.url()

    def _start_postgres(self, secrets: Secrets) -> Logins:
        """Roles and database are there when this returns; tables are not."""
        config = self._config
        passwords = {
            "smcp_owner": secrets.owner_password,
            "smcp_app": secrets.app_password,
            "smcp_system": secrets.system_password,
        }
        if not config.has_own_postgres:
            if config.app_database_url:
                return Logins(
                    owner=config.database_url, app=config.app_database_url, system=config.system_database_url
                )
            return ensure_roles(config.database_url, passwords=passwords)
        postgres = Postgres(
            directory=config.var / "postgres",
            port=config.ports["postgres"],
            password=secrets.postgres_password,
        )
        self._screen.start_part("postgres")
        postgres.ensure_initialised()
        process = postgres.process()
        try:
            self._begin(Service(process=process, is_ready=lambda _: postgres.is_ready()))
        finally:
            postgres.close(process)
        self._await("postgres")
        return ensure_database(postgres.url(), database=DATABASE, passwords=passwords)

    def _places(self, secrets: Secrets, logins: Logins, redis_url: str) -> Places:
        config = self._config
        if config.has_edge:
            account, token = secrets.edge_account_id, secrets.edge_token
            base_url, dispatch_url = f"{config.url('edge_api')}/client/v4", config.url("edge_workers")
            dispatch_host = envfile.dispatch_host(secrets.installation, account)
        else:
            account, token = config.cloudflare_account_id, config.cloudflare_api_token
            base_url, dispatch_url, dispatch_host = config.cloudflare_api_base_url, config.dispatch_url, ""
        return Places(
            var=config.var,
            logins=logins,
            redis_url=redis_url,
            api_url=config.public_url("api"),
            console_url=config.public_url("console"),
            gateway_url=config.public_url("gateway"),
            cloudflare_api_base_url=base_url,
            cloudflare_account_id=account,
            cloudflare_api_token=token,
            dispatch_url=dispatch_url,
            dispatch_host=dispatch_host,
        )

    def _migrate(self, places: Places, secrets: Secrets) -> None:
        """In our own Postgres only when something changed since the last time: the database remembers what it was."""
        wanted = migrations.digest()
        if self._config.has_own_postgres and migrations.get_mark(places.logins.owner) == wanted:
            return
        self._command(
            "migrate", "migrate", "--no-input", environ=control_environ(places, secrets, role="owner")
        )
        if self._config.has_own_postgres:
            migrations.set_mark(places.logins.owner, wanted)

    def _settle(self, places: Places, secrets: Secrets) -> dict[str, Any]:
        """The account, the routes, the operator and the demo tenant with its live server: made by the first start and
        found by every other. Meanwhile the others get ready; a deploy waits for the worker by itself."""
        if self._config.has_edge:
            self._await("edge")
        environ = {
            **control_environ(places, secrets, role="system"),
            "SMCP_OPERATOR_PASSWORD": secrets.operator_password,
            "SMCP_OPERATOR_API_KEY": secrets.operator_api_key,
            "SMCP_DEMO_API_KEY": secrets.demo_api_key,
        }
        for line in reversed(self._command("demo", "settle", environ=environ)):
            if line.startswith(ANSWER_STARTS_WITH):
                made: dict[str, Any] = json.loads(line)
                known = replace(
                    secrets,
                    operator_api_key=str(made["operator"]["api_key"]),
                    demo_api_key=str(made["demo"]["api_key"]),
                )
                if known != secrets:
                    save_secrets(self._config.var / "secrets.json", known)
                return made
        raise StackError("`manage.py settle` did not say what it made.")

    # ── Parts ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _begin(self, service: Service) -> None:
        """Starts a process; `_await` says when it is ready."""
        if service.process.name not in self._screen.parts:
            self._screen.start_part(service.process.name)
        child = spawn(service.process, self._screen.log)
        self._children.append(child)
        guard.remember(self._children, self._config.var)
        self._waiting[child.name] = (child, service, time.monotonic() + service.timeout_s)

    def _await(self, name: str) -> None:
        self._look_until(lambda: name not in self._waiting)

    def _await_all(self) -> None:
        self._look_until(lambda: not self._waiting)

    def _look_until(self, is_done: Callable[[], bool], *, is_patient: bool = False) -> None:
        """Asks everything that was begun whether it is ready. Raises NotReady, and what `_check` raises. `is_patient`: what
        they may be waiting for is being made just now; their time begins when that is done."""
        while True:
            for name, (child, service, deadline) in list(self._waiting.items()):
                if service.is_ready(child):
                    del self._waiting[name]
                    self._screen.end_part(name)
                elif is_patient:
                    self._waiting[name] = (child, service, time.monotonic() + service.timeout_s)
                elif time.monotonic() > deadline:
                    raise NotReady(f"{name} did not become ready in time; it last said: {child.last_words()}")
            if is_done():
                return
            self._check()
            time.sleep(LOOK_EVERY_S)

    def _command(self, name: str, *arguments: str, environ: dict[str, str]) -> list[str]:
        """Runs a management command to its end, while everything else has to stay up. Returns its last lines."""
        self._screen.start_part(name)
        child = spawn(services.command(name, *arguments, environ=environ), self._log_openly)
        deadline = time.monotonic() + COMMAND_TIMEOUT_S
        try:
            self._look_until(
                lambda: child.exit_code() is not None or time.monotonic() > deadline, is_patient=True
            )
        finally:
            child.finish()
        if child.exit_code() != 0:
            raise ProcessStopped(child.why_it_ended())
        self._screen.end_part(name)
        return child.lines

    def _log_openly(self, name: str, line: str) -> None:
        if not line.startswith(ANSWER_STARTS_WITH):
            self._screen.log(name, line)

    # ── Watching ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _check(self) -> None:
        """Raises Stopping when we were asked to stop, ProcessStopped when a child ended, DiskFull when there is no room."""
        if self._stop_asked.is_set():
            raise Stopping
        for child in self._children:
            if child.exit_code() is not None:
                raise ProcessStopped(child.why_it_ended())
        if time.monotonic() > self._look_at_disk_at:
            guard.check_disk(self._config.var, needed_bytes=guard.LOW_DISK_BYTES)
            self._look_at_disk_at = time.monotonic() + DISK_EVERY_S

    def _watch(self) -> None:
        while not self._stop_asked.wait(WATCH_EVERY_S):
            self._check()
        raise Stopping


def main() -> int:
    """Exit code 0: stopped because somebody asked; 1: the sentence on the screen says why."""
    screen = Screen()
    try:
        config = parse_config()
    except StackError as exc:
        screen.complain(str(exc))
        return 1
    return keep(lambda: Stack(config, screen).run())
