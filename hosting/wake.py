"""The only place that enqueues. A wake-up saves the few seconds until the next sweep; losing one loses nothing else.

Messages carry ids and are sent after the commit, so whoever reads them finds the rows. With the broker away we say so in the log
and the sweep does the work; only an upload's check, which somebody waits for, is refused.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, cast

import redis
from celery import current_app
from django.conf import settings
from django.db import transaction
from kombu.exceptions import OperationalError

from smcp.common.errors import Unavailable
from smcp.common.ids import new_id

logger = logging.getLogger(__name__)
CHECK_WITHIN_S: Final = 30
_SOON: Final = {"max_retries": 1, "interval_start": 0, "interval_max": 0}


class CheckUnavailable(Unavailable):
    code = "check-unavailable"
    title = "Uploads cannot be checked at the moment"


@dataclass(frozen=True, kw_only=True)
class ModuleRef:
    """One module of an upload, its bytes a blob of the tenant."""

    name: str
    content_type: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the runtime said when it loaded the code. `code` and `message` are the runtime's when it refused."""

    is_loadable: bool
    handlers: tuple[str, ...] = ()
    code: int = 0
    message: str = ""


def run_operation(*, tenant_id: str, operation_id: str) -> None:
    """After the commit: there is an Operation to run."""
    transaction.on_commit(lambda: _send("hosting.tasks.run_operation", [tenant_id, operation_id]))


def check_remotes() -> None:
    """After the commit: there is a server elsewhere to look at."""
    transaction.on_commit(lambda: _send("hosting.tasks.check_remotes", []))


def go_on() -> None:
    """There is more to do than fitted in one turn."""
    _send("hosting.tasks.sweep_operations", [])


def check_upload(
    *,
    tenant_id: str,
    modules: Sequence[ModuleRef],
    main_module: str,
    compatibility_date: str,
    compatibility_flags: Sequence[str] = (),
    bindings: Sequence[Mapping[str, Any]] = (),
    migrations: Mapping[str, Any] | None = None,
    within_s: int = CHECK_WITHIN_S,
) -> Verdict:
    """Has a worker load the code in the runtime, and waits for the verdict. Call outside any transaction.

    `bindings` as declared. Raises CheckUnavailable when no worker answers within `within_s`, or Cloudflare does not.
    """
    check_id = new_id()
    request = {
        "tenant_id": tenant_id,
        "modules": [asdict(module) for module in modules],
        "main_module": main_module,
        "compatibility_date": compatibility_date,
        "compatibility_flags": list(compatibility_flags),
        "bindings": [dict(binding) for binding in bindings],
        "migrations": dict(migrations) if migrations else None,
    }
    try:
        current_app.send_task(
            "hosting.tasks.check_upload", [check_id, request], expires=within_s, retry_policy=_SOON
        )
        client = redis.Redis.from_url(
            settings.REDIS_URL, socket_timeout=within_s + 5, socket_connect_timeout=3
        )
        with client:
            answer = cast(
                "tuple[bytes, bytes] | None", client.blpop([verdict_key(check_id)], timeout=within_s)
            )
    except (redis.RedisError, OperationalError) as exc:
        raise CheckUnavailable("The workers cannot be reached.", retry_after_s=10) from exc
    if answer is None:
        raise CheckUnavailable("No worker checked the upload in time.", retry_after_s=10)
    verdict = json.loads(answer[1])
    if "unavailable" in verdict:
        raise CheckUnavailable(verdict["unavailable"], retry_after_s=int(verdict.get("retry_after_s") or 10))
    return Verdict(**{**verdict, "handlers": tuple(verdict.get("handlers", ()))})


def verdict_key(check_id: str) -> str:
    """Redis list on which one verdict arrives."""
    return f"smcp:{settings.INSTALLATION}:check:{check_id}"


def _send(task: str, args: list[Any]) -> None:
    try:
        current_app.send_task(task, args, retry_policy=_SOON)
    except (OperationalError, redis.RedisError) as exc:
        logger.warning("wake.put_off task=%s error=%s", task, type(exc).__name__)
