"""Health of an Environment. Latencies in milliseconds."""

from __future__ import annotations

from datetime import datetime

from ninja import Schema

from hosting.models import Flip, HealthState, Incident, LatencySample


class HealthOut(Schema):
    """`state`: unknown, healthy, slow or unhealthy. `next_probe_at`: when we look ourselves, unless traffic tells sooner."""

    state: str = "unknown"
    since: datetime | None = None
    last_seen_at: datetime | None = None
    last_latency_ms: float | None = None
    last_failure: str = ""
    failures_in_a_row: int = 0
    next_probe_at: datetime | None = None

    @classmethod
    def of(cls, health: HealthState | None) -> HealthOut:
        return cls() if health is None else cls.from_orm(health)


class FlipOut(Schema):
    at: datetime
    old: str
    new: str
    reason: str

    @classmethod
    def of(cls, flip: Flip) -> FlipOut:
        return cls.from_orm(flip)


class IncidentOut(Schema):
    """`ended_at` is null while it lasts."""

    id: str
    started_at: datetime
    ended_at: datetime | None
    reason: str

    @classmethod
    def of(cls, incident: Incident) -> IncidentOut:
        return cls.from_orm(incident)


class LatencyOut(Schema):
    """One minute. `source`: traffic or probe."""

    minute: datetime
    source: str
    requests: int
    failures: int
    latency_ms_mean: float
    latency_ms_max: float

    @classmethod
    def of(cls, sample: LatencySample) -> LatencyOut:
        return cls(
            minute=sample.minute,
            source=sample.source,
            requests=sample.requests,
            failures=sample.failures,
            latency_ms_mean=round(sample.latency_ms_sum / sample.requests, 3) if sample.requests else 0.0,
            latency_ms_max=sample.latency_ms_max,
        )


class LatencyHistoryOut(Schema):
    since: datetime
    items: list[LatencyOut]
