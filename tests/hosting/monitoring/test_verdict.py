"""The rules by which evidence becomes a health state."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hosting.monitoring.beliefs import phase_of
from hosting.monitoring.verdict import (
    DOWN_INTERVAL_S,
    LONGEST_INTERVAL_S,
    QUIET_INTERVAL_S,
    SUSPICIOUS_INTERVAL_S,
    Belief,
    Change,
    Evidence,
    weigh,
)

START = datetime(2026, 1, 1, tzinfo=UTC)


def fresh() -> Belief:
    return Belief(
        state="unknown",
        since=START,
        failures_in_a_row=0,
        successes_in_a_row=0,
        interval_s=QUIET_INTERVAL_S,
        next_probe_at=START,
    )


def after(belief: Belief, outcomes: str, **extra) -> tuple[Belief, list[Change]]:
    """Weighs one probe a second: `+` good, `-` failed, `~` slow."""
    changes = []
    at = belief.last_seen_at or START
    for outcome in outcomes:
        at += timedelta(seconds=1)
        evidence = Evidence(
            at=at,
            is_ok=outcome != "-",
            source="probe",
            latency_ms={"+": 20.0, "~": 5_000.0}.get(outcome),
            failure="timeout" if outcome == "-" else "",
            **extra,
        )
        belief, change = weigh(belief, evidence)
        changes += [change] if change else []
    return belief, changes


@pytest.mark.acceptance("S4.7")
@pytest.mark.parametrize(
    ("outcomes", "state"),
    [
        ("+", "healthy"),
        ("++-", "healthy"),
        ("++--", "healthy"),
        ("++---", "unhealthy"),
        ("++---+", "unhealthy"),
        ("++---++", "healthy"),
        ("++--+--", "healthy"),
        ("--", "unknown"),
        ("---", "unhealthy"),
    ],
)
def test_a_state_flips_only_after_a_run_of_the_same_evidence(outcomes, state):
    assert after(fresh(), outcomes)[0].state == state


@pytest.mark.acceptance("P3")
def test_slow_is_told_from_dead():
    belief, changes = after(fresh(), "++~~")
    assert belief.state == "slow"
    assert [(c.old, c.new) for c in changes] == [("unknown", "healthy"), ("healthy", "slow")]
    assert after(belief, "---")[0].state == "unhealthy"


def test_a_flip_carries_its_moment_and_its_reason():
    belief, changes = after(fresh(), "++---")
    assert changes[-1] == Change(
        at=START + timedelta(seconds=5), old="healthy", new="unhealthy", reason="timeout"
    )
    assert belief.since == changes[-1].at


def test_evidence_older_than_the_last_is_ignored():
    belief, _ = after(fresh(), "++")
    late = Evidence(at=START, is_ok=False, source="traffic", failure="timeout", weight=3)
    assert weigh(belief, late) == (belief, None)


def test_a_window_of_failed_traffic_flips_at_once():
    belief, _ = after(fresh(), "++")
    window = Evidence(
        at=START + timedelta(minutes=1), is_ok=False, source="traffic", failure="timeout", weight=3
    )
    assert weigh(belief, window)[0].state == "unhealthy"


def test_probes_back_off_to_a_quarter_of_an_hour_while_all_is_well_and_nobody_calls():
    belief, _ = after(fresh(), "++")
    intervals = []
    for _ in range(6):
        belief, _ = after(belief, "+")
        intervals.append(belief.interval_s)
    assert intervals == [120, 240, 480, LONGEST_INTERVAL_S, LONGEST_INTERVAL_S, LONGEST_INTERVAL_S]


def test_traffic_brings_the_interval_back_to_a_minute():
    belief, _ = after(fresh(), "++++++")
    assert belief.interval_s > QUIET_INTERVAL_S
    traffic = Evidence(at=START + timedelta(minutes=1), is_ok=True, source="traffic", latency_ms=9.0)
    assert weigh(belief, traffic)[0].interval_s == QUIET_INTERVAL_S


def test_doubt_brings_a_close_watch_and_an_outage_a_steady_one():
    doubtful, _ = after(fresh(), "++-")
    assert doubtful.interval_s == SUSPICIOUS_INTERVAL_S
    assert doubtful.next_probe_at == START + timedelta(seconds=3 + SUSPICIOUS_INTERVAL_S)
    assert after(doubtful, "--")[0].interval_s == DOWN_INTERVAL_S


@given(
    seconds=st.floats(min_value=0, max_value=1e6),
    phase=st.floats(min_value=0, max_value=1, exclude_max=True),
    earlier=st.sampled_from([60, 120, 240, 480, 900]),
)
def test_the_next_probe_falls_within_half_to_one_and_a_half_intervals(seconds, phase, earlier):
    at = START + timedelta(seconds=seconds)
    belief = Belief(
        state="healthy",
        since=START,
        failures_in_a_row=0,
        successes_in_a_row=9,
        interval_s=earlier,
        next_probe_at=at,
        last_seen_at=START,
    )
    belief, _ = weigh(belief, Evidence(at=at, is_ok=True, source="probe", latency_ms=1.0), phase=phase)
    gap = (belief.next_probe_at - at).total_seconds()
    assert belief.interval_s / 2 - 0.001 <= gap <= belief.interval_s * 1.5 + 0.001


def test_probes_of_many_environments_spread_evenly_over_the_interval():
    due: Counter[int] = Counter()
    seen = Evidence(at=START, is_ok=True, source="probe", latency_ms=1.0, weight=2)
    for n in range(6000):
        belief, _ = weigh(fresh(), seen, phase=phase_of(f"environment-{n}"))
        due[int((belief.next_probe_at - START).total_seconds())] += 1
    per_second = [due[s] for s in range(30, 90)]
    assert sum(per_second) == 6000
    assert max(per_second) < 2 * 100
