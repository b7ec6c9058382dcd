"""Waiting for something to become true, the only way a test may wait."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
POLL_S = 0.02


def wait_for(condition: Callable[[], T | None], timeout_s: float = 15.0, *, what: str = "") -> T:
    """Calls `condition` until it returns something true, and returns that. Raises AssertionError after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not (outcome := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(_complaint(condition, what, timeout_s, outcome))
        time.sleep(POLL_S)
    return outcome


async def wait_until(
    condition: Callable[[], T | Awaitable[T]], timeout_s: float = 15.0, *, what: str = ""
) -> T:
    """`wait_for` inside a running event loop; `condition` may be a coroutine function."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = condition()
        outcome: T = await answer if inspect.isawaitable(answer) else answer
        if outcome:
            return outcome
        if time.monotonic() > deadline:
            raise AssertionError(_complaint(condition, what, timeout_s, outcome))
        await asyncio.sleep(POLL_S)


def _complaint(condition: object, what: str, timeout_s: float, outcome: object) -> str:
    name = what or inspect.getdoc(condition) or getattr(condition, "__qualname__", repr(condition))
    return f"waited {timeout_s:g} s in vain for: {name} (last: {outcome!r})"
