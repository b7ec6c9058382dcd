"""Servers that run elsewhere: where, and what is sent along."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ninja import Schema
from pydantic import Field, model_validator

from hosting.models import Remote
from hosting.operations.remotes import RemoteWish
from hosting.stdio import refuse_command
from smcp.common.rest import Wish


class HeaderIn(Wish):
    """`prefix`, and what the environment's secret `secret` holds: `{"name": "Authorization", "prefix": "Bearer ", "secret": "TOKEN"}`."""

    model_config = {**Wish.model_config, "str_strip_whitespace": False}

    name: str = Field(max_length=64, examples=["Authorization"])
    secret: str = Field(max_length=80, examples=["API_TOKEN"])
    prefix: str = Field("", max_length=64, examples=["Bearer "])


class RemoteIn(Wish):
    """`transport`: `streamable-http`, or `sse` for a server of 2024-11-05. `confirm_public`: anybody may use what the headers open."""

    url: str = Field(max_length=2048, examples=["https://mcp.example.com/mcp"])
    transport: str = Field("streamable-http", max_length=20)
    headers: list[HeaderIn] = Field(default_factory=list, max_length=16)
    confirm_public: bool = False

    @model_validator(mode="before")
    @classmethod
    def _is_no_program(cls, wish: Any) -> Any:
        if isinstance(wish, dict):
            refuse_command(wish)
        return wish

    def wish(self) -> RemoteWish:
        return RemoteWish(
            url=self.url,
            transport=self.transport,
            headers=[header.dict() for header in self.headers],
            is_public_confirmed=self.confirm_public,
        )


class HeaderOut(Schema):
    name: str
    prefix: str
    secret: str


class RemoteOut(Schema):
    """`eras` is what the server was found to speak at `checked_at`; empty: not seen yet."""

    url: str
    transport: str
    headers: list[HeaderOut]
    confirm_public: bool
    eras: list[str]
    issues_sessions: bool
    checked_at: datetime | None
    check_failure: str
    changed_by: str
    changed_at: datetime

    @classmethod
    def of(cls, remote: Remote) -> RemoteOut:
        return cls(
            url=remote.url,
            transport=remote.transport,
            headers=[HeaderOut(**header) for header in remote.headers],
            confirm_public=remote.is_public_confirmed,
            eras=remote.eras,
            issues_sessions=remote.issues_sessions,
            checked_at=remote.checked_at,
            check_failure=remote.check_failure,
            changed_by=remote.changed_by,
            changed_at=remote.changed_at,
        )
