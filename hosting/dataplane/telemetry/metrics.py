"""Prometheus metrics of one gateway process. Labels come from closed lists: nothing a tenant or client wrote gets here."""

from __future__ import annotations

from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

WaitOutcome = Literal["placed", "late", "left"]
ERAS = ("legacy", "modern", "none")
LATENCY_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)

Outcome = Literal["replayed", "taken_up", "lost", "unknown", "away"]  # of a stream that was resumed


class Metrics:
    """One registry per process; children are looked up once and kept."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "smcp_gateway_requests", "Requests answered", ["era", "outcome"], registry=self.registry
        )
        self._latency = Histogram(
            "smcp_gateway_request_seconds",
            "From the request's head to the end of a JSON answer or the head of a stream",
            ["era"],
            buckets=LATENCY_S,
            registry=self.registry,
        )
        self._failures = Counter(
            "smcp_gateway_upstream_failures", "Failures of servers by kind", ["kind"], registry=self.registry
        )
        self.sessions_opened = Counter(
            "smcp_gateway_sessions_opened", "Sessions opened", registry=self.registry
        )
        self.sessions_ended = Counter("smcp_gateway_sessions_ended", "Sessions ended", registry=self.registry)
        self.sessions_expired = Counter(
            "smcp_gateway_sessions_expired",
            "Requests under sessions that nobody had used for the idle time",
            registry=self.registry,
        )
        self.sessions_seen = Gauge(
            "smcp_gateway_sessions_seen",
            "Sessions whose last use is in memory",
            registry=self.registry,
        )
        self._healed = Counter(
            "smcp_gateway_sessions_healed",
            "Sessions a server had lost, by what became of them",
            ["outcome"],
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "smcp_gateway_requests_in_flight", "Requests in flight", registry=self.registry
        )
        self.waiting = Gauge(
            "smcp_gateway_requests_waiting", "Requests in line for a place", registry=self.registry
        )
        self._waited = Histogram(
            "smcp_gateway_waited_seconds",
            "In line for a place, by what came of it",
            ["outcome"],
            buckets=LATENCY_S,
            registry=self.registry,
        )
        self._places_refused = Counter(
            "smcp_gateway_places_refused",
            "Requests that could not even wait for a place",
            ["why"],
            registry=self.registry,
        )
        self.circuits = Gauge(
            "smcp_gateway_circuits", "Circuit breakers that are not closed", ["state"], registry=self.registry
        )
        self.circuit_changes = Counter(
            "smcp_gateway_circuit_changes",
            "Changes of circuit breakers, by what they became",
            ["state"],
            registry=self.registry,
        )
        self.circuit_refused = Counter(
            "smcp_gateway_circuit_refused",
            "Requests that were not sent to a failing server",
            registry=self.registry,
        )
        self.held = Gauge(
            "smcp_gateway_held_bytes", "Bytes of requests and answers that are held", registry=self.registry
        )
        self.streams = Gauge("smcp_gateway_streams_open", "Streams open to clients", registry=self.registry)
        self.bridged_sessions = Gauge(
            "smcp_gateway_bridged_sessions",
            "Sessions with legacy servers that are kept for modern clients",
            registry=self.registry,
        )
        self.parked_calls = Gauge(
            "smcp_gateway_parked_calls",
            "Calls at legacy servers that wait for their modern clients' input",
            registry=self.registry,
        )
        self.events_dropped = Counter(
            "smcp_gateway_events_dropped",
            "Server-sent events of a kind that is not MCP",
            registry=self.registry,
        )
        self._unlogged = Counter(
            "smcp_gateway_events_unlogged",
            "Events of resumable streams that were sent without an id",
            ["reason"],
            registry=self.registry,
        )
        self._resumed = Counter(
            "smcp_gateway_streams_resumed",
            "Streams that clients resumed, by what became of them",
            ["outcome"],
            registry=self.registry,
        )
        self.reports_lost = Counter(
            "smcp_gateway_reports_lost",
            "Reports dropped because their buffer was full",
            registry=self.registry,
        )
        self.redis_up = Gauge("smcp_gateway_redis_up", "1 while Redis answers", registry=self.registry)
        self.redis_state = Gauge(
            "smcp_gateway_redis_state", "1 for the state Redis is in", ["state"], registry=self.registry
        )
        self.redis_seconds = Gauge(
            "smcp_gateway_redis_write_seconds",
            "How long Redis took, or has taken so far, for a small write",
            registry=self.registry,
        )
        self.facts = Gauge("smcp_gateway_facts", "Facts in memory by kind", ["kind"], registry=self.registry)
        self.reloads = Gauge(
            "smcp_gateway_route_reloads", "Full reloads of the facts", registry=self.registry
        )
        self.skipped = Gauge(
            "smcp_gateway_facts_skipped", "Facts that could not be read", registry=self.registry
        )
        self.changed_at = Gauge(
            "smcp_gateway_routes_changed_timestamp_seconds",
            "When the facts last changed",
            registry=self.registry,
        )
        self.synced_at = Gauge(
            "smcp_gateway_routes_synced_timestamp_seconds",
            "When Redis last confirmed them",
            registry=self.registry,
        )
        self._request_children: dict[tuple[str, str], Counter] = {}
        self._latency_children = {era: self._latency.labels(era) for era in ERAS}

    def answered(self, *, era: str, outcome: str, seconds: float) -> None:
        child = self._request_children.get((era, outcome))
        if child is None:
            child = self._request_children[era, outcome] = self._requests.labels(era, outcome)
        child.inc()
        self._latency_children[era].observe(seconds)

    def upstream_failed(self, kind: str) -> None:
        self._failures.labels(kind).inc()

    def waited(self, outcome: WaitOutcome, seconds: float) -> None:
        self._waited.labels(outcome).observe(seconds)

    def place_refused(self, why: Literal["full", "streams"]) -> None:
        self._places_refused.labels(why).inc()

    def healed(self, outcome: Literal["healed", "refused", "failed"]) -> None:
        self._healed.labels(outcome).inc()

    def unlogged(self, reason: Literal["away", "full", "tenant", "large", "gone"], count: int) -> None:
        self._unlogged.labels(reason).inc(count)

    def resumed(self, outcome: Outcome) -> None:
        self._resumed.labels(outcome).inc()

    def exposition(self) -> bytes:
        return generate_latest(self.registry)
