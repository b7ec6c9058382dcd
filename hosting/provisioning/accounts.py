"""Accounts at Cloudflare: how one is spoken to, where a new Environment goes, and how one is made ready.

The token is opened here, handed to the client, and nowhere else. Connections are kept per process: making them costs more than
a request.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

import httpx
import redis
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.conf import settings
from django.db.models import Count, F

import hosting
from hosting import names
from hosting.cloudflare.budget import Budget
from hosting.cloudflare.client import HttpCloudflare, no_gate, open_http
from hosting.cloudflare.port import Cloudflare, Module, ResourceKind, ScriptUpload
from hosting.dataplane.contract import b64url
from hosting.models import Account, Environment, Resource
from smcp.common.sealing import open_sealed, seal
from smcp.common.tenancy import as_system

logger = logging.getLogger(__name__)
WORKERS: Final = Path(hosting.__file__).parent / "workers"
COMPATIBILITY_DATE: Final = "2026-10-01"  # of our own Workers
KV_NAMESPACES_MAX: Final = 950  # of Cloudflare's 1,000 an account


# ── Speaking to one ──────────────────────────────────────────────────────────────────────────────────────────────────


def open_cloudflare(
    account_id: str, *, gate: Callable[[], None] = no_gate, is_priority: bool = False, sharer: str = ""
) -> Cloudflare:
    """The client of one Account (our id). Its requests count on the Account's budget, and on the share of the tenant `sharer`. Needs the
    system's database login."""
    with as_system():
        account = Account.objects.get(id=account_id)
    budget = _budget(account.cloudflare_account_id)
    return HttpCloudflare(
        base_url=account.api_base_url,
        account_id=account.cloudflare_account_id,
        token="",
        dispatch_namespace=account.dispatch_namespace,
        permit=lambda: budget.permit(is_priority=is_priority, sharer=sharer),
        gate=gate,
        http=_connections(
            account.api_base_url, account.cloudflare_account_id, account.id, account.token_sealed
        ),
    )


@cache
def _connections(
    base_url: str, cloudflare_account_id: str, account_id: str, token_sealed: str
) -> httpx.Client:
    token = open_sealed(token_sealed, context=f"account:{account_id}").decode()
    return open_http(
        base_url=base_url,
        account_id=cloudflare_account_id,
        token=token,
        timeout_s=settings.CLOUDFLARE_TIMEOUT_S,
    )


@cache
def _budget(cloudflare_account_id: str) -> Budget:
    return Budget(
        redis.Redis.from_url(settings.REDIS_URL, socket_timeout=5, socket_connect_timeout=5),
        installation=settings.INSTALLATION,
        account=cloudflare_account_id,
        requests=settings.CLOUDFLARE_REQUESTS,
        window_s=settings.CLOUDFLARE_WINDOW_S,
        longest_s=settings.CLOUDFLARE_TIMEOUT_S,
    )


# A forked worker must not share its parent's sockets.
os.register_at_fork(after_in_child=_connections.cache_clear)
os.register_at_fork(after_in_child=_budget.cache_clear)


# ── Room for Environments ─────────────────────────────────────────────────────────────────────────────────────────────


def update_openness() -> None:
    """Closes Accounts that are full and opens those that have room again.

    Whoever serves requests places Environments in open Accounts, but does not see other tenants' Environments to count them.
    """
    with as_system():
        accounts = list(Account.objects.values_list("id", "capacity", "state"))
        placed = _counts(Environment.objects.exclude(state=Environment.State.RETIRED))
        spaces = _counts(
            Resource.objects.filter(kind=ResourceKind.KV_NAMESPACE).exclude(state=Resource.State.DELETED)
        )
        for account_id, capacity, state in accounts:
            is_full = placed.get(account_id, 0) >= capacity or spaces.get(account_id, 0) >= KV_NAMESPACES_MAX
            wanted = Account.State.FULL if is_full else Account.State.OPEN
            if wanted != state:
                Account.objects.filter(id=account_id, state=state).update(state=wanted)
                logger.info("account.%s account=%s", wanted, account_id)


def _counts(rows: Any) -> dict[str, int]:
    return dict(rows.order_by().values_list("account_id").annotate(Count("id")))


# ── Making one ready ─────────────────────────────────────────────────────────────────────────────────────────────────


def ensure_account(
    *,
    name: str,
    cloudflare_account_id: str,
    token: str,
    api_base_url: str,
    dispatch_url: str,
    dispatch_host: str,
    now: datetime,
) -> Account:
    """Registers an account and makes it ready: dispatch namespace, dispatcher Worker. May run twice; uploads only what changed.

    Raises CloudflareError.
    """
    facts = {
        "api_base_url": api_base_url,
        "dispatch_namespace": names.dispatch_namespace(),
        "dispatch_url": dispatch_url,
        "dispatch_host": dispatch_host,
    }
    with as_system():
        account = Account.objects.filter(cloudflare_account_id=cloudflare_account_id).first()
        if account is None:
            account = Account(name=name, cloudflare_account_id=cloudflare_account_id, **facts)
            account.token_sealed = seal(token.encode(), context=f"account:{account.id}")
            account.save(force_insert=True)
        else:
            _update(account, facts, token)
    cloudflare = open_cloudflare(account.id, is_priority=True)
    cloudflare.verify_token()
    cloudflare.ensure_dispatch_namespace()
    ensure_dispatcher(cloudflare, cloudflare_account_id)
    with as_system():
        Account.objects.filter(id=account.id, ready_at=None).update(ready_at=now)
        account.refresh_from_db()
    return account


def _update(account: Account, facts: dict[str, str], token: str) -> None:
    changed = {key: value for key, value in facts.items() if getattr(account, key) != value}
    if {"dispatch_url", "dispatch_host"} & changed.keys():
        # Every Route of the account names where its dispatcher answers; the sweep publishes what got a new version.
        Environment.objects.filter(account=account).update(route_version=F("route_version") + 1)
    if open_sealed(account.token_sealed, context=f"account:{account.id}") != token.encode():
        changed["token_sealed"] = seal(token.encode(), context=f"account:{account.id}")
    if changed:
        Account.objects.filter(id=account.id).update(**changed)
        account.refresh_from_db()


def ensure_dispatcher(cloudflare: Cloudflare, cloudflare_account_id: str) -> bool:
    """Uploads the outbound Worker, then the dispatcher that names it, unless exactly these are there. Returns whether it did."""
    outbound = _ensure_worker(cloudflare, names.outbound_name(), _own_worker("outbound", []))
    dispatcher = _ensure_worker(cloudflare, names.dispatcher_name(), _dispatcher(cloudflare_account_id))
    cloudflare.expose_account_script(names.dispatcher_name())
    return outbound or dispatcher


def _ensure_worker(cloudflare: Cloudflare, name: str, upload: ScriptUpload) -> bool:
    tags = cloudflare.get_account_script_tags(name)
    if tags is not None and set(upload.tags) <= set(tags):
        return False
    cloudflare.put_account_script(name, upload)
    logger.info("account.worker.uploaded worker=%s", name)
    return True


def _dispatcher(cloudflare_account_id: str) -> ScriptUpload:
    public_keys = {
        kid: b64url(Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw())
        for kid, seed in settings.DISPATCH_KEYS.items()
    }
    # https://developers.cloudflare.com/cloudflare-for-platforms/workers-for-platforms/configuration/outbound-workers/
    outbound = {"worker": {"service": names.outbound_name()}, "params": [{"name": "policy"}]}
    namespace = {"name": "DISPATCHER", "namespace": names.dispatch_namespace(), "outbound": outbound}
    bindings: list[dict[str, Any]] = [
        {"type": "dispatch_namespace", **namespace},
        {"type": "json", "name": "PLATFORM_KEYS", "json": public_keys},
        {"type": "plain_text", "name": "AUD", "text": names.audience(cloudflare_account_id)},
    ]
    return _own_worker("dispatcher", bindings)


def _own_worker(folder: str, bindings: list[dict[str, Any]]) -> ScriptUpload:
    """One of our own Workers, tagged with a digest of all that makes it behave."""
    code = (WORKERS / folder / "worker.js").read_bytes()
    digest = hashlib.sha256(code + json.dumps([bindings, COMPATIBILITY_DATE]).encode()).hexdigest()
    return ScriptUpload(
        main_module="worker.js",
        modules=[Module(name="worker.js", content_type="application/javascript+module", content=code)],
        compatibility_date=COMPATIBILITY_DATE,
        bindings=bindings,
        tags=[f"digest-{digest[:32]}"],
    )
