"""Sessions of clients. `id` is a handle: nobody can use a session by it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from ninja import Schema
from pydantic import Field

from hosting.models import Session
from smcp.common.rest import PageOf, PageQuery

State = Literal["open", "ended", "expired"]


class SessionsQuery(PageQuery):
    state: State | None = Field(None, description="Without it: all there are, also those that are over.")


class SessionOut(Schema):
    """`client_name` and `client_version` are what the client calls itself. `key_name`: of the API key that opened it, if one did.
    `ended_by` is empty when the client or its server ended it."""

    id: str
    environment: str
    state: State
    principal: str
    key_name: str | None
    client_name: str
    client_version: str
    protocol_version: str
    opened_at: datetime
    last_active_at: datetime
    expires_at: datetime
    ended_at: datetime | None
    ended_by: str

    @classmethod
    def of(cls, session: Session) -> SessionOut:
        return cls(
            id=session.handle,
            environment=session.environment.slug,
            state=session.state,  # type: ignore[arg-type]  # the column's choices are the literal's values
            principal=session.principal,
            key_name=getattr(session, "key_name", None),
            client_name=session.client_name,
            client_version=session.client_version,
            protocol_version=session.protocol_version,
            opened_at=session.opened_at,
            last_active_at=session.last_active_at,
            expires_at=session.expires_at,
            ended_at=session.ended_at,
            ended_by=session.ended_by,
        )


class SessionPage(PageOf[SessionOut]):
    """`open`: how many are open, on all pages. `unlisted`: how many more were opened while the list was full."""

    open: int
    unlisted: int


class SessionsEndedOut(Schema):
    """`ended`: how many of those that ended were listed."""

    ended: int
