"""The state machine, driven through everything that can happen to it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hosting.provisioning.states import (
    LONGEST_RETRY_S,
    Do,
    Failure,
    Finish,
    Journal,
    OperationState,
    StepState,
    Undo,
    Verdict,
    backoff_s,
    judge,
    next_move,
)

RUNNING = OperationState.RUNNING


def journal(states: list[StepState], *, pivot: int, state: OperationState = RUNNING) -> Journal:
    return Journal(state=state, steps=states, pivot=pivot)


def failure(**changed: object) -> Failure:
    values = {
        "is_permanent": False,
        "is_outcome_unknown": False,
        "attempts": 1,
        "bound": 3,
        "can_be_left": False,
        **changed,
    }
    return Failure(**values)  # type: ignore[arg-type]


@given(
    length=st.integers(1, 7),
    pivot_of=st.integers(-1, 6),
    fates=st.lists(st.sampled_from(["done", "crash", "retry", "permanent", "surprise"]), max_size=60),
)
def test_whatever_happens_an_operation_ends_either_whole_or_undone(
    length: int, pivot_of: int, fates: list[str]
) -> None:
    pivot = min(pivot_of, length - 1)
    steps = [StepState.PENDING] * length
    state, attempts, was_done = RUNNING, [0] * length, [False] * length
    fate = iter([*fates, *["done"] * 3 * length])
    while True:
        now = journal(steps, pivot=pivot, state=state)
        move = next_move(now)
        if isinstance(move, Finish):
            break
        what = next(fate)
        if isinstance(move, Undo):
            steps[move.position] = StepState.UNDOING if what != "done" else StepState.UNDONE
            continue
        assert isinstance(move, Do)
        position = move.position
        assert all(other == StepState.DONE for other in steps[:position]), "steps run in order"
        attempts[position] += 1
        steps[position] = StepState.STARTED
        if what == "done":
            steps[position], was_done[position] = StepState.DONE, True
        elif what != "crash":
            verdict = judge(
                now,
                position,
                failure(
                    is_permanent=what == "permanent",
                    is_outcome_unknown=what == "surprise",
                    attempts=attempts[position],
                ),
            )
            assert verdict != Verdict.LEAVE
            if verdict == Verdict.UNWIND:
                assert not now.is_past_pivot
                steps[position], state = StepState.FAILED, OperationState.UNWINDING
    if move.state == OperationState.SUCCEEDED:
        assert all(step == StepState.DONE for step in steps)
    else:
        assert pivot >= 0
        assert not was_done[pivot], "behind the pivot there is only forward"
        assert all(step in {StepState.UNDONE, StepState.PENDING} for step in steps)


def test_unwinding_begins_with_the_step_that_was_in_flight() -> None:
    states = [StepState.DONE, StepState.DONE, StepState.FAILED, StepState.PENDING]
    assert next_move(journal(states, pivot=3, state=OperationState.UNWINDING)) == Undo(2)
    states[2] = StepState.STARTED
    assert next_move(journal(states, pivot=3, state=OperationState.UNWINDING)) == Undo(2)


def test_a_pivot_whose_outcome_is_unknown_is_tried_until_it_is_known() -> None:
    at_pivot = journal([StepState.DONE, StepState.STARTED], pivot=1)
    assert judge(at_pivot, 1, failure(attempts=99, is_outcome_unknown=True)) == Verdict.RETRY
    assert judge(at_pivot, 1, failure(attempts=99)) == Verdict.UNWIND


def test_behind_the_pivot_only_what_may_be_left_is_left() -> None:
    behind = journal([StepState.DONE, StepState.STARTED], pivot=0)
    assert judge(behind, 1, failure(is_permanent=True)) == Verdict.RETRY
    assert judge(behind, 1, failure(is_permanent=True, can_be_left=True)) == Verdict.LEAVE
    left = journal([StepState.DONE, StepState.FAILED, StepState.PENDING], pivot=0)
    assert next_move(left) == Do(2)


def test_a_step_without_a_bound_never_gives_up() -> None:
    before = journal([StepState.STARTED], pivot=0)
    assert judge(before, 0, failure(bound=None, attempts=10_000)) == Verdict.RETRY


def test_waiting_grows_and_stays_bounded() -> None:
    waits = [backoff_s(attempt) for attempt in range(1, 50)]
    assert waits[:4] == [1, 2, 4, 8]
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST_RETRY_S
