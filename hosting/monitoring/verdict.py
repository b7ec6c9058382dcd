"""From evidence to a health state. Pure: no clock, no database.

One bad answer proves nothing, one good answer after an outage neither: a state flips after a run of the same evidence.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Literal

State = Literal["unknown", "healthy", "slow", "unhealthy"]

FAILURES_TO_FLIP: Final = 3
SUCCESSES_TO_FLIP: Final = 2
SLOW_MS: Final = 2_000.0
QUIET_INTERVAL_S: Final = 60
LONGEST_INTERVAL_S: Final = 15 * 60
SUSPICIOUS_INTERVAL_S: Final = 10  # while something is wrong and not yet settled
DOWN_INTERVAL_S: Final = 30


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What one probe, or one window of traffic, showed. `weight`: how many single observations it stands for."""

    at: datetime
    is_ok: bool
    source: Literal["traffic", "probe"]
    latency_ms: float | None = None
    failure: str = ""
    weight: int = 1


@dataclass(frozen=True, kw_only=True)
class Belief:
    """What we hold true of one Environment, and when to look again."""

    state: State
    since: datetime
    failures_in_a_row: int
    successes_in_a_row: int
    interval_s: int
    next_probe_at: datetime
    last_seen_at: datetime | None = None
    last_latency_ms: float | None = None
    last_failure: str = ""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A flip that the evidence caused."""

    at: datetime
    old: State
    new: State
    reason: str


def weigh(belief: Belief, evidence: Evidence, *, phase: float = 0.0) -> tuple[Belief, Change | None]:
    """What we believe after this evidence, and the flip it caused, if any. Evidence older than the last is ignored.

    `phase` in [0, 1) is the Environment's own place in the interval, so that probes spread evenly.
    """
    if belief.last_seen_at is not None and evidence.at < belief.last_seen_at:
        return belief, None
    if evidence.is_ok:
        after = replace(
            belief,
            failures_in_a_row=0,
            successes_in_a_row=min(belief.successes_in_a_row + evidence.weight, 1_000_000),
            last_latency_ms=evidence.latency_ms
            if evidence.latency_ms is not None
            else belief.last_latency_ms,
            last_failure="",
        )
    else:
        after = replace(
            belief,
            failures_in_a_row=min(belief.failures_in_a_row + evidence.weight, 1_000_000),
            successes_in_a_row=0,
            last_failure=evidence.failure,
        )
    after = replace(after, last_seen_at=evidence.at, state=_state_of(after))
    change = None
    if after.state != belief.state:
        after = replace(after, since=evidence.at)
        change = Change(
            at=evidence.at, old=belief.state, new=after.state, reason=evidence.failure or _praise(after)
        )
    interval = _interval(after, evidence, flipped=change is not None)
    return replace(after, interval_s=interval, next_probe_at=_next(evidence.at, interval, phase)), change


def _next(at: datetime, interval_s: int, phase: float) -> datetime:
    """When to look again: at this Environment's own place in the interval; in doubt, as soon as the interval says."""
    if interval_s < QUIET_INTERVAL_S:
        return at + timedelta(seconds=interval_s)
    earliest_s = at.timestamp() + interval_s / 2
    passed_s = (earliest_s - phase * interval_s) % interval_s
    return at + timedelta(seconds=interval_s / 2 + (interval_s - passed_s) % interval_s)


def _state_of(belief: Belief) -> State:
    if belief.failures_in_a_row >= FAILURES_TO_FLIP:
        return "unhealthy"
    needed = 1 if belief.state == "unknown" else SUCCESSES_TO_FLIP
    if belief.successes_in_a_row >= needed:
        return "slow" if (belief.last_latency_ms or 0) > SLOW_MS else "healthy"
    return belief.state


def _praise(belief: Belief) -> str:
    return "answers slowly" if belief.state == "slow" else "answers"


def _interval(belief: Belief, evidence: Evidence, *, flipped: bool) -> int:
    """A minute by default, twice as long after every quiet probe up to 15 minutes; close watch while in doubt."""
    if belief.state == "unhealthy":
        return DOWN_INTERVAL_S
    if belief.failures_in_a_row or (
        belief.state != "unknown" and belief.successes_in_a_row < SUCCESSES_TO_FLIP
    ):
        return SUSPICIOUS_INTERVAL_S
    if evidence.source == "traffic" or flipped or belief.interval_s < QUIET_INTERVAL_S:
        return QUIET_INTERVAL_S
    return min(belief.interval_s * 2, LONGEST_INTERVAL_S)
