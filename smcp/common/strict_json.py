"""JSON from outside, without what Postgres cannot keep: NUL, lone surrogates, NaN, or bottomless nesting."""

from __future__ import annotations

from typing import Any, Final

import msgspec

DEPTH_MAX: Final = 32


class NotUsable(ValueError):
    """Not JSON in UTF-8, or JSON we do not keep. The message is for a person."""


def parse_json(raw: bytes) -> Any:
    """Raises NotUsable."""
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, RecursionError, ValueError) as exc:
        raise NotUsable("It must be JSON in UTF-8.") from exc
    if _is_unkeepable(value, DEPTH_MAX):
        raise NotUsable(f"Text may not hold NUL, and {DEPTH_MAX} levels are the most.")
    return value


def _is_unkeepable(value: Any, depth: int) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return depth == 0 or any(
            _is_unkeepable(key, depth) or _is_unkeepable(entry, depth - 1) for key, entry in value.items()
        )
    if isinstance(value, list):
        return depth == 0 or any(_is_unkeepable(entry, depth - 1) for entry in value)
    return False
