"""Ids that sort by the time a thing came to be."""

from __future__ import annotations

from datetime import UTC, datetime

from ulid import ULID


def id_at(at: datetime) -> str:
    """A fresh id as it would have been made then."""
    return str(ULID.from_datetime(at.astimezone(UTC))).lower()
