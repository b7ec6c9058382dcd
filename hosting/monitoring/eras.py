"""What servers elsewhere speak: asked of the server itself when it was configured or changed, and from time to time after that.

Hosted code is asked once, before it gets traffic; a server elsewhere may be another one tomorrow. Modern (2026-07-28) is asked with
`server/discover`, legacy with `initialize`, whose session is ended again. Connections go where the gateway's would, and nowhere
else (hosting/dataplane/reach.py). A server over HTTP+SSE speaks legacy: it is not asked. What a server says of itself is not
shown: it might repeat the headers it was sent.

Whoever claims a row moves its time, so nobody else asks meanwhile; if we crash, it is asked again when that time has come. Whether a
server is well is the monitors' to say: not answering here changes nothing of what it was known to speak.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
from django.conf import settings
from django.utils import timezone

from hosting import mcp
from hosting.dataplane.reach import AddressRefused, Names, connector_to
from hosting.dataplane.remotes import RemoteHeaders, check_url
from hosting.elsewhere import HeadersUnusable, headers_of
from hosting.models import Environment, Remote, Server
from hosting.signals import tell_environment_changed
from smcp.common.tenancy import as_system
from tenants.models import Tenant

logger = logging.getLogger(__name__)
BATCH: Final = 50
QUESTION_S: Final = 15.0
GOODBYE_S: Final = 5.0
CLAIM_S: Final = 3 * QUESTION_S + GOODBYE_S + 30
HEADER_BYTES: Final = 16 * 1024
_CLIENT: Final = {"name": "mcp", "version": "0.1.0"}  # what the SDKs send by default


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Whom to ask. `target` says that it still is the same server when the answer is written down."""

    tenant: str
    environment: str
    target: str
    url: str
    headers: RemoteHeaders


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """What was found. `failure`: why nothing was, in our words."""

    asked: Asked
    eras: tuple[str, ...] = ()
    issues_sessions: bool = False
    failure: str = ""


def check_due(*, now: datetime, should_stop: Callable[[], bool] = lambda: False) -> int:
    """Asks every server that is due; returns how many. Runs as the system."""
    checked = 0
    while not should_stop():
        asked = _claim(now=timezone.now())
        if not asked:
            return checked
        for spoken in asyncio.run(_ask_all(asked)):
            _record(spoken, now=timezone.now())
        checked += len(asked)
    return checked


# ── Rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _claim(*, now: datetime) -> list[Asked]:
    with as_system():
        rows = list(
            Remote.objects.select_for_update(of=("self",), skip_locked=True)
            .filter(
                check_due_at__lte=now,
                transport=Remote.Transport.STREAMABLE_HTTP,
                environment__state=Environment.State.ACTIVE,
                environment__server__state=Server.State.ACTIVE,
                tenant__state=Tenant.State.ACTIVE,
            )
            .order_by("check_due_at")[:BATCH]
        )
        ids = [row.id for row in rows]
        Remote.objects.filter(id__in=ids).update(check_due_at=now + timedelta(seconds=CLAIM_S))
        return [asked for row in rows if (asked := _asked(row)) is not None]


def _asked(row: Remote) -> Asked | None:
    try:
        headers = headers_of(row)
    except HeadersUnusable as exc:
        logger.error("eras.headers_unusable environment=%s error=%s", row.environment_id, exc)
        return None
    return Asked(
        tenant=row.tenant_id,
        environment=row.environment_id,
        target=row.target,
        url=row.url,
        headers=headers,
    )


def _record(spoken: Spoken, *, now: datetime) -> None:
    """Published at once when it is news. An answer for a server that is configured no more is dropped."""
    asked = spoken.asked
    with as_system():
        row = (
            Remote.objects.select_for_update()
            .filter(tenant_id=asked.tenant, environment_id=asked.environment, target=asked.target)
            .first()
        )
        if row is None:
            return
        was = (row.eras, row.issues_sessions)
        row.checked_at, row.check_failure = now, spoken.failure
        row.check_interval_s = (
            min(row.check_interval_s * 2, Remote.CHECK_MAX_S) if spoken.failure else Remote.CHECK_MAX_S
        )
        if not spoken.failure:
            row.eras, row.issues_sessions = list(spoken.eras), spoken.issues_sessions
        fields = ["checked_at", "check_failure", "check_interval_s", "eras", "issues_sessions"]
        row.save(update_fields=fields)
        # Unless somebody has wished for another look meanwhile.
        Remote.objects.filter(id=row.id, check_due_at__gt=now).update(
            check_due_at=now + timedelta(seconds=row.check_interval_s)
        )
        if (row.eras, row.issues_sessions) != was:
            tell_environment_changed(asked.tenant, asked.environment)


# ── Asking ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _ask_all(asked: Sequence[Asked]) -> list[Spoken]:
    names = Names(settings.NAME_SERVERS)
    try:
        return await asyncio.gather(*(_ask(each, names) for each in asked))
    finally:
        await names.close()


async def _ask(asked: Asked, names: Names) -> Spoken:
    """Never raises: what goes wrong is the answer."""
    host = urlsplit(asked.url).hostname or ""
    if check_url(asked.url, settings.REMOTE_ALLOW):
        return Spoken(asked=asked, failure="Its address is not one that may be reached.")
    try:
        connector = connector_to(host, names=names, allowed=settings.REMOTE_ALLOW, limit=4)
        async with aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None),
            max_line_size=HEADER_BYTES,
            max_field_size=HEADER_BYTES,
        ) as http:
            return await _Visit(http, asked).ask()
    except aiohttp.ClientConnectorError as exc:
        if isinstance(exc.os_error, AddressRefused):
            return Spoken(asked=asked, failure="Its name has no public address.")
        return Spoken(asked=asked, failure="No connection could be made.")
    except AddressRefused:
        return Spoken(asked=asked, failure="Its address is not public.")
    except TimeoutError:
        return Spoken(asked=asked, failure=f"It did not answer within {QUESTION_S:g} s.")
    except (aiohttp.ClientError, OSError, ValueError):
        return Spoken(asked=asked, failure="The connection broke off, or what it answered is no HTTP.")


class _Visit:
    """Two questions to one server."""

    def __init__(self, http: aiohttp.ClientSession, asked: Asked) -> None:
        self._http = http
        self._asked = asked
        self._status = 0
        self._session: mcp.Session | None = None

    async def ask(self) -> Spoken:
        """Raises aiohttp.ClientError, OSError, TimeoutError."""
        legacy = "protocolVersion" in await self._result(mcp.initialize(_CLIENT))
        status, session = self._status, self._session
        if session is not None:
            await self._say_goodbye(session)
        supported = (await self._result(mcp.discover(_CLIENT))).get("supportedVersions")
        modern = isinstance(supported, list) and mcp.MODERN in supported
        eras = (*(("legacy",) if legacy else ()), *(("modern",) if modern else ()))
        if not eras:
            return Spoken(
                asked=self._asked, failure=f"It does not answer as an MCP server: it answered {status}."
            )
        return Spoken(asked=self._asked, eras=eras, issues_sessions=legacy and session is not None)

    async def _result(self, question: mcp.Question) -> dict[str, Any]:
        """Empty where there is none."""
        headers = {**question.headers, "accept-encoding": "identity", **dict(self._asked.headers)}
        async with (
            asyncio.timeout(QUESTION_S),
            self._http.post(
                self._asked.url, data=question.body, headers=headers, allow_redirects=False
            ) as got,
        ):
            self._status = got.status
            answer = mcp.Answer(content_type=got.headers.get("content-type", ""))
            async for piece in got.content.iter_any():
                if answer.feed(piece):
                    break
            else:
                answer.end()
            result = mcp.result_of(answer.message) or {}
            self._session = mcp.session_of(got.headers, result)
        return result

    async def _say_goodbye(self, session: mcp.Session) -> None:
        headers = {**session.headers, **dict(self._asked.headers)}
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
            async with (
                asyncio.timeout(GOODBYE_S),
                self._http.delete(self._asked.url, headers=headers, allow_redirects=False),
            ):
                return
