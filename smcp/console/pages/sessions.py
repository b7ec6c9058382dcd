"""Sessions of clients: one of them, and what an Environment's page shows of its own."""

from __future__ import annotations

from typing import Any

from hosting.models import Environment, Session
from hosting.queries.sessions import count_sessions
from smcp.console.listing import url_of
from smcp.console.pages.people import describe

SHOWN = 10
TITLE_MAX = 40
ANYBODY = {"public": "Anybody"}


def principals(sessions: list[Session]) -> dict[str, str]:
    """Principals, and whoever ended a session, as people know them."""
    return {**ANYBODY, **describe([*(s.principal for s in sessions), *(s.ended_by for s in sessions)])}


def context(session: Session) -> dict[str, Any]:
    return {
        "title": client_of(session),
        "session": session,
        "here": session.environment,
        "server": session.environment.server,
        "who": principals([session]),
    }


def of_environment(environment: Environment) -> dict[str, Any]:
    """The open ones, the last used first, and how many there are."""
    of = {"tenant_id": environment.tenant_id, "environment_id": environment.id}
    back = {"back": f"{url_of(environment)}#sessions"}
    newest = list(Session.objects.filter(**of, state=Session.State.OPEN).order_by("-last_active_at")[:SHOWN])
    return {
        "sessions": [
            {"row": row, "client": client_of(row), "dialog": f"end-{row.handle}", "fields": back}
            for row in newest
        ],
        "session_counts": count_sessions(**of),
        "who": principals(newest),
    }


def client_of(session: Session) -> str:
    """What the client calls itself, no longer than a title. A gateway that never told the opening leaves that open."""
    said = f"{session.client_name} {session.client_version}".strip() or "A client without a name"
    return said if len(said) <= TITLE_MAX else f"{said[: TITLE_MAX - 1]}…"
