"""What Celery runs: thin, by name, with ids only. The schedule is in the settings.

A worker process that is told to stop finishes the step it is in. Celery tells its main process; the children that run tasks learn
of it through a byte of memory they share with it since before they were forked.
"""

from __future__ import annotations

import mmap
import os
import socket
from typing import Any

from celery import shared_task
from celery.signals import worker_shutting_down
from django.utils import timezone

from hosting import routing, wake
from hosting.monitoring import eras, reports, retention, rounds, sessions
from hosting.provisioning import checking, engine, reconciler

_stopping = mmap.mmap(-1, 1)


@worker_shutting_down.connect
def _tell_children(**_: Any) -> None:
    _stopping[0] = 1


def _is_stopping() -> bool:
    return _stopping[0] == 1


@shared_task(name="hosting.tasks.sweep_operations")
def sweep_operations() -> None:
    """One turn for whoever waited longest; more of them are further tasks, so that nothing else has to wait for all."""
    if _is_stopping():
        return
    owner = f"{socket.gethostname()}:{os.getpid()}"
    if engine.run_next(owner=owner, should_stop=_is_stopping) and engine.has_due(now=timezone.now()):
        wake.go_on()


@shared_task(name="hosting.tasks.run_operation")
def run_operation(tenant_id: str, operation_id: str) -> None:
    """A wake-up. Whose turn it is, is decided by who waited longest, not by who called last."""
    sweep_operations()


@shared_task(name="hosting.tasks.check_upload")
def check_upload(check_id: str, request: dict[str, Any]) -> None:
    checking.check(check_id=check_id, request=request)


@shared_task(name="hosting.tasks.republish_routes")
def republish_routes() -> None:
    routing.republish()


@shared_task(name="hosting.tasks.reconcile_accounts")
def reconcile_accounts() -> None:
    reconciler.reconcile_all(now=timezone.now())


@shared_task(name="hosting.tasks.collect_reports")
def collect_reports() -> None:
    reports.collect_all(should_stop=_is_stopping)


@shared_task(name="hosting.tasks.expire_sessions")
def expire_sessions() -> None:
    sessions.expire_sessions(now=timezone.now())


@shared_task(name="hosting.tasks.probe_environments")
def probe_environments() -> None:
    rounds.run_round(now=timezone.now(), should_stop=_is_stopping)


@shared_task(name="hosting.tasks.check_remotes")
def check_remotes() -> None:
    eras.check_due(now=timezone.now(), should_stop=_is_stopping)


@shared_task(name="hosting.tasks.prune_history")
def prune_history() -> None:
    retention.prune(now=timezone.now())
