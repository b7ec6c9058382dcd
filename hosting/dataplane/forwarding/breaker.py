"""Circuit breakers: a Release that keeps failing is not asked for a while, and its callers are told so at once.

closed     everything passes; outcomes are counted in a sliding window
open       too large a share of the window failed: nothing passes for a pause, which doubles each time up to MAX_PAUSE_S
half-open  a few trials pass; all well: closed again; one that fails: open again

Failures are those of the server and the way to it: no connection, a connection that broke, no answer in the time it was due, HTTP 5xx.
JSON-RPC errors and 4xx are answers. What the platform did (the dispatcher's own errors, a bound of the gateway), a client who left, and a
client whose own time was clearly shorter than the Environment's count as nothing: no caller can open a breaker by being in a hurry.
Probes always pass, since they must see what is so, and count as trials.

Each node keeps its own, in memory; a node that starts anew begins closed. What was sent before a breaker changed is not counted after it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal

from hosting.dataplane.call import Errand, Outcome
from hosting.dataplane.contract import Target
from hosting.dataplane.forwarding.upstream import Answer, UpstreamFailure
from hosting.dataplane.protocol.errors import (
    ANSWER_CUT,
    ANSWER_TIMEOUT,
    CIRCUIT_OPEN,
    UNREACHABLE,
    UPSTREAM_FAILED,
    Refusal,
)
from hosting.dataplane.telemetry.logs import log
from hosting.dataplane.telemetry.metrics import Metrics

SLOT_S = 3.0
SLOTS = 10  # the window: 30 s
MIN_REQUESTS = 20  # fewer in the window say nothing
FAILING_SHARE = 0.5
FIRST_PAUSE_S = 5.0
MAX_PAUSE_S = 60.0
TRIALS = 3  # at a time, and how many in a row close it again
TRIAL_EVERY_S = 5.0  # one more is let through when the others take longer than this
FAIR_SHARE = 0.9  # of the Environment's time; a server that had less is not judged by its silence
FORGOTTEN_S = 600.0
MAX_BREAKERS = 20_000
FAILURES = frozenset(kind.outcome for kind in (UNREACHABLE, ANSWER_TIMEOUT, ANSWER_CUT, UPSTREAM_FAILED))
_BROKEN = frozenset(("refused", "lost", "timeout", "cut", "silent"))

State = Literal["closed", "open", "half_open"]
Key = tuple[str, str]  # Environment, Release


class _Breaker:
    __slots__ = (
        "failed",
        "generation",
        "good_trials",
        "key",
        "opens_at",
        "pause_s",
        "requests",
        "slot",
        "state",
        "tenant",
        "trial_at",
        "trials",
    )

    def __init__(self, tenant: str, key: Key) -> None:
        self.tenant = tenant
        self.key = key
        self.state: State = "closed"
        self.generation = 0
        self.pause_s = FIRST_PAUSE_S
        self.opens_at = 0.0  # when trials may pass, while it is open
        self.trials = 0  # under way
        self.trial_at = 0.0  # the last one's start
        self.good_trials = 0
        self.slot = 0
        self.requests = [0] * SLOTS
        self.failed = [0] * SLOTS

    def turn_to(self, now: float) -> int:
        """The window's place for `now`; what slid out of it is forgotten."""
        slot = int(now / SLOT_S)
        for passed in range(min(slot - self.slot, SLOTS)):
            at = (slot - passed) % SLOTS
            self.requests[at] = self.failed[at] = 0
        self.slot = max(self.slot, slot)
        return self.slot % SLOTS

    def is_failing(self) -> bool:
        requests = sum(self.requests)
        return requests >= MIN_REQUESTS and sum(self.failed) >= requests * FAILING_SHARE

    def is_idle(self, now: float) -> bool:
        """Nothing to remember of it: its window is empty, or nobody has asked for it any more since it opened."""
        if self.state == "closed":
            return int(now / SLOT_S) - self.slot >= SLOTS
        return now > max(self.opens_at, self.trial_at) + FORGOTTEN_S


class _Passage:
    """One request on its way through a breaker."""

    __slots__ = ("_breaker", "_breakers", "_generation", "_is_settled", "_is_trial")

    def __init__(self, breakers: Breakers, breaker: _Breaker, *, is_trial: bool) -> None:
        self._breakers = breakers
        self._breaker = breaker
        self._generation = breaker.generation
        self._is_trial = is_trial
        self._is_settled = False

    def settle(self, outcome: Outcome) -> None:
        """How it went. The first word counts."""
        if self._is_settled:
            return
        self._is_settled = True
        if self._generation == self._breaker.generation:
            self._breakers.note(self._breaker, outcome, is_trial=self._is_trial)


class Breakers:
    """One per process."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._known: dict[Key, _Breaker] = {}
        self._not_closed: dict[Key, _Breaker] = {}
        for state in ("open", "half_open"):
            metrics.circuits.labels(state).set_function(partial(self._count, state))

    def enter(self, call: Errand, target: Target) -> _Passage:
        """Raises Refusal (503, with Retry-After) while the Release has its rest."""
        key = (call.route.environment, target.release)
        breaker = self._known.get(key)
        if breaker is None:
            breaker = self._make(call.route.tenant, key)
        if breaker.state == "closed":
            return _Passage(self, breaker, is_trial=False)
        now = time.monotonic()
        if not call.is_probe and not self._may_try(breaker, now):
            self._metrics.circuit_refused.inc()
            left_s = max(1, math.ceil(breaker.opens_at - now))
            raise Refusal(CIRCUIT_OPEN, headers=(("retry-after", str(left_s)),))
        if breaker.state == "open":
            self._turn(breaker, "half_open")
        breaker.trials += 1
        breaker.trial_at = now
        return _Passage(self, breaker, is_trial=True)

    def note(self, breaker: _Breaker, outcome: Outcome, *, is_trial: bool) -> None:
        """What came of a request that was sent in the breaker's present state."""
        if self._known.get(breaker.key) is not breaker:  # forgotten meanwhile
            return
        if is_trial:
            self._note_trial(breaker, outcome)
        elif outcome != "nothing":
            at = breaker.turn_to(time.monotonic())
            breaker.requests[at] += 1
            if outcome == "failed":
                breaker.failed[at] += 1
                if breaker.is_failing():
                    self._open(breaker, FIRST_PAUSE_S)

    def _note_trial(self, breaker: _Breaker, outcome: Outcome) -> None:
        breaker.trials -= 1
        if outcome == "failed":
            self._open(breaker, min(breaker.pause_s * 2, MAX_PAUSE_S))
        elif outcome == "ok":
            breaker.good_trials += 1
            if breaker.good_trials >= TRIALS:
                self._turn(breaker, "closed")

    def _may_try(self, breaker: _Breaker, now: float) -> bool:
        if now < breaker.opens_at:
            return False
        return breaker.trials < TRIALS or now - breaker.trial_at >= TRIAL_EVERY_S

    def _open(self, breaker: _Breaker, pause_s: float) -> None:
        breaker.pause_s = pause_s
        breaker.opens_at = time.monotonic() + pause_s
        self._turn(breaker, "open")

    def _turn(self, breaker: _Breaker, state: State) -> None:
        breaker.state = state
        if state == "closed":
            self._not_closed.pop(breaker.key, None)
        else:
            self._not_closed[breaker.key] = breaker
        breaker.generation += 1
        breaker.trials = breaker.good_trials = 0
        breaker.requests, breaker.failed = [0] * SLOTS, [0] * SLOTS
        self._metrics.circuit_changes.labels(state).inc()
        environment, release = breaker.key
        log(
            f"circuit.{state}",
            tenant=breaker.tenant,
            environment=environment,
            release=release,
            pause_s=breaker.pause_s if state == "open" else 0,
        )

    def _make(self, tenant: str, key: Key) -> _Breaker:
        if len(self._known) >= MAX_BREAKERS:
            self._drop_some()
        made = self._known[key] = _Breaker(tenant, key)
        return made

    def _drop_some(self) -> None:
        """Those with nothing to remember; where all have, the older half."""
        now = time.monotonic()
        kept = [breaker for breaker in self._known.values() if not breaker.is_idle(now)]
        if len(kept) >= MAX_BREAKERS:
            kept = kept[len(kept) // 2 :]
        self._known = {breaker.key: breaker for breaker in kept}
        self._not_closed = {breaker.key: breaker for breaker in kept if breaker.state != "closed"}

    def _count(self, state: str) -> int:
        """How many are so; those nobody has asked for in a long time (their Release is gone) are forgotten first."""
        now = time.monotonic()
        for key in [key for key, breaker in self._not_closed.items() if breaker.is_idle(now)]:
            del self._not_closed[key]
            self._known.pop(key, None)
        return sum(breaker.state == state for breaker in self._not_closed.values())


def note_head(call: Errand, answer: Answer) -> None:
    """What the head of an answer says of its server. A JSON answer is judged when it is complete."""
    if call.passage is None:
        return
    if answer.status >= 500:
        is_its_own = answer.dispatch_error in {"", "exception"}
        call.passage.settle("failed" if is_its_own else "nothing")
    elif answer.status != 200 or answer.content_type == "text/event-stream":
        call.passage.settle("ok")


def is_hurried(call: Errand, sent_at: float) -> bool:
    """Whether the server was given clearly less time than its Environment's: by a client in a hurry, or by waiting for a place.
    `sent_at` is monotonic."""
    limits = call.route.limits
    return call.until - sent_at < FAIR_SHARE * min(limits.answer_timeout_s, limits.answer_budget_s)


def note_failure(call: Errand, failure: UpstreamFailure, sent_at: float) -> None:
    if call.passage is not None:
        call.passage.settle(_outcome_of(call, failure, sent_at))


def _outcome_of(call: Errand, failure: UpstreamFailure, sent_at: float) -> Outcome:
    is_excused = failure.kind == "timeout" and is_hurried(call, sent_at)
    return "failed" if failure.kind in _BROKEN and not is_excused else "nothing"


@contextmanager
def judged(call: Errand) -> Iterator[None]:
    """Whatever happens to the answer inside settles the passage that is still open at the end."""
    outcome: Outcome = "nothing"
    began = time.monotonic()
    try:
        yield
        outcome = "ok"
    except Refusal as refusal:
        outcome = "failed" if refusal.kind.outcome in FAILURES else "nothing"
        raise
    except UpstreamFailure as failure:
        outcome = _outcome_of(call, failure, began)
        raise
    finally:
        if call.passage is not None:
            call.passage.settle(outcome)
