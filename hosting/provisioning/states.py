"""The state machine of Operations and Steps. Pure: it is told what was recorded and says what to do next.

Forward, each step in turn; a failure before the pivot unwinds, beginning with the step that was in flight; behind the pivot
there is only forward. Crashing between any two recordings loses nothing: a step that was started is done again (or undone).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class OperationState(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    UNWINDING = "unwinding"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class StepState(StrEnum):
    PENDING = "pending"
    STARTED = "started"
    DONE = "done"
    FAILED = "failed"
    UNDOING = "undoing"
    UNDONE = "undone"


FIRST_RETRY_S: Final = 1.0
LONGEST_RETRY_S: Final = 60.0


@dataclass(frozen=True, kw_only=True)
class Journal:
    """An Operation as recorded. `pivot` is the position behind which there is no way back; -1: there never was one."""

    state: OperationState
    steps: Sequence[StepState]
    pivot: int

    @property
    def is_past_pivot(self) -> bool:
        return self.pivot < 0 or self.steps[self.pivot] == StepState.DONE


@dataclass(frozen=True)
class Do:
    position: int


@dataclass(frozen=True)
class Undo:
    position: int


@dataclass(frozen=True)
class Finish:
    state: OperationState


Move = Do | Undo | Finish


def next_move(journal: Journal) -> Move:
    """What a worker that holds the Operation does now."""
    if journal.state in {OperationState.SUCCEEDED, OperationState.FAILED}:
        return Finish(journal.state)
    if journal.state == OperationState.UNWINDING:
        for position in reversed(range(len(journal.steps))):
            if journal.steps[position] not in {StepState.PENDING, StepState.UNDONE}:
                return Undo(position)
        return Finish(OperationState.FAILED)
    for position, state in enumerate(journal.steps):
        # A failed step before which all is done was left behind on purpose (Verdict.LEAVE).
        if state not in {StepState.DONE, StepState.FAILED}:
            return Do(position)
    return Finish(OperationState.SUCCEEDED)


class Verdict(StrEnum):
    """What a failure means for the Operation."""

    RETRY = "retry"
    UNWIND = "unwind"
    LEAVE = "leave"  # record it and go on with the next step


@dataclass(frozen=True, kw_only=True)
class Failure:
    """How a step failed. `bound`: after how many attempts it gives up; None: never."""

    is_permanent: bool
    is_outcome_unknown: bool
    attempts: int
    bound: int | None
    can_be_left: bool


def judge(journal: Journal, position: int, failure: Failure) -> Verdict:
    """Try again, go back, or go on without it."""
    has_given_up = failure.is_permanent or (failure.bound is not None and failure.attempts >= failure.bound)
    if not has_given_up:
        return Verdict.RETRY
    if journal.is_past_pivot:
        return Verdict.LEAVE if failure.can_be_left else Verdict.RETRY
    if position == journal.pivot and failure.is_outcome_unknown:
        # It may have happened: going back now could take away what already serves.
        return Verdict.RETRY
    return Verdict.UNWIND


def backoff_s(attempts: int) -> float:
    """How long to wait after the n-th attempt: 1, 2, 4 … 60 s."""
    return float(min(LONGEST_RETRY_S, FIRST_RETRY_S * 2 ** min(max(attempts - 1, 0), 10)))
