"""The lines processes write: what they say to a person, and which of them is worth repeating when one has ended."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

FRESH_S = 10.0
ALARMING = frozenset({"error", "critical", "fatal", "panic"})
SHOWN = 300


def as_prose(line: str) -> str:
    """An event logged as JSON in the words the others use: `INFO routes.loaded source=redis`. Other lines as they are."""
    event = _structured(line)
    if event is None or "event" not in event:
        return line
    event.pop("at", None)
    level, name = str(event.pop("level", "info")).upper(), event.pop("event")
    return " ".join([level, str(name), *(f"{key}={value}" for key, value in event.items())])


def last_words(said: Iterable[tuple[float, str]], now: float) -> str:
    """What a process that ended at `now` had just said of its end; "" when it had nothing to say.

    `said`: (when, line), oldest first. What is older than FRESH_S is of something else, and so is an event that is no error.
    """
    for at, line in reversed(list(said)):
        if at < now - FRESH_S:
            break
        event = _structured(line)
        if line.strip() and (event is None or str(event.get("level", "")).lower() in ALARMING):
            return as_prose(line).strip()[:SHOWN]
    return ""


def _structured(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None
