"""Log events, one JSON object a line, on standard error. Names come from the code, values are bounded, secrets never enter."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import msgspec

_encode = msgspec.json.Encoder(enc_hook=str).encode
_log = logging.getLogger("smcp.gateway")
MAX_VALUE = 500


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": round(record.created, 3),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return _encode(line).decode()


def configure_logs(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("granian").setLevel(logging.WARNING)
    logging.getLogger("_granian").setLevel(logging.WARNING)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)


def log(event: str, *, level: int = logging.INFO, exc_info: bool = False, **fields: Any) -> None:
    """`log("redis.lost", node=…)`. Text longer than MAX_VALUE is cut."""
    bounded = {name: value[:MAX_VALUE] if isinstance(value, str) else value for name, value in fields.items()}
    _log.log(level, event, extra={"fields": bounded}, exc_info=exc_info)


class Damper:
    """Lets one line a second through for each key, and says how many it held back: a failing server cannot flood the log."""

    def __init__(self, *, every_s: float = 1.0, keys: int = 1000) -> None:
        self._every_s = every_s
        self._keys = keys
        self._seen: dict[str, tuple[float, int]] = {}

    def log(self, event: str, key: str, **fields: Any) -> None:
        now = time.monotonic()
        last, held = self._seen.get(key, (0.0, 0))
        if now - last < self._every_s:
            self._seen[key] = (last, held + 1)
            return
        if len(self._seen) >= self._keys:
            self._seen.clear()
        self._seen[key] = (now, 0)
        if held:
            fields["held_back"] = held
        log(event, level=logging.WARNING, **fields)
