"""One round of probing: claim what is due, probe it, write down what was seen as it arrives.

A round claims only what it starts at once, and goes on claiming as places become free, so a server that hangs takes one place and
nobody's time. Servers that did not answer lately have places of their own: however many hang, the others find room.

After `claiming_s` a round claims no more and ends with its last probe, at most PROBE_MAX_S later; meanwhile the next one may
begin. One that is told to stop gives back what has no outcome yet. If it dies, claims end by themselves.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from django.conf import settings
from django.utils import timezone

from hosting.monitoring import claims
from hosting.monitoring.outcomes import record
from hosting.monitoring.prober import PROBE_TIMEOUT_S, Prober
from smcp.common.tenancy import as_system

LOOK_EVERY_S: Final = 1.0
_claiming = threading.Lock()  # one round of a process looks for what is due: more would only take its threads


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How many probes may be in flight, of servers that answer and of those in doubt, and for how long a round begins more."""

    at_once: int = 128
    doubtful_at_once: int = 256  # waiting costs little
    claiming_s: float = 60.0
    timeout_s: float = PROBE_TIMEOUT_S


def run_round(
    *, now: datetime, should_stop: Callable[[], bool] = lambda: False, pace: Pace | None = None
) -> int:
    """Probes what is due, and what becomes due meanwhile; returns how many. Runs as the system.

    Does nothing but watch what is new while another round of this process claims.
    """
    claims.watch_new(now=now)
    if not _claiming.acquire(blocking=False):
        return 0
    with ExitStack() as claiming:
        claiming.callback(_claiming.release)
        return _probe_due(pace or Pace(), should_stop, stop_claiming=claiming.close)


def _probe_due(pace: Pace, should_stop: Callable[[], bool], stop_claiming: Callable[[], None]) -> int:
    lanes = [
        _Lane(is_doubtful=False, at_once=pace.at_once),
        _Lane(is_doubtful=True, at_once=pace.doubtful_at_once),
    ]
    ends_at = time.monotonic() + pace.claiming_s
    probed = 0
    with Prober(key=settings.PROBE_KEY, timeout_s=pace.timeout_s) as prober:
        while not should_stop():
            if time.monotonic() < ends_at:
                probed += sum(lane.fill(prober) for lane in lanes)
            else:
                stop_claiming()
            if not prober.in_flight:
                return probed
            record(prober.take(within_s=LOOK_EVERY_S))
    # Told to stop: leaving the block ended the probes, so giving them back lets nobody be probed twice at once.
    record(prober.take(within_s=0))
    with as_system():
        claims.release(prober.in_flight)
    return probed


class _Lane:
    """The places of one kind of server, and when it is worth looking who could take them."""

    def __init__(self, *, is_doubtful: bool, at_once: int) -> None:
        self._is_doubtful = is_doubtful
        self._at_once = at_once
        self._look_at = 0.0

    def fill(self, prober: Prober) -> int:
        """Claims and starts what is due, as far as there are places, and returns how many."""
        in_flight = prober.in_flight
        free = self._at_once - sum(a.is_doubtful == self._is_doubtful for a in in_flight)
        now = time.monotonic()
        # Looking costs the same for one place as for many: when some are left, wait a moment for more.
        look_at = self._look_at if free * 4 >= self._at_once else self._look_at + LOOK_EVERY_S
        if not free or (in_flight and now < look_at):
            return 0
        due = claims.claim_due(now=timezone.now(), limit=free, is_doubtful=self._is_doubtful)
        prober.start(due)
        self._look_at = now if len(due) == free else now + LOOK_EVERY_S
        return len(due)
