"""Outcomes of probes into the database: the probe itself, its place in the latency history, and what it says of the server."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

from hosting.models import HealthState, Probe
from hosting.monitoring import claims
from hosting.monitoring.beliefs import Minute, add_minutes, observe
from hosting.monitoring.prober import Outcome
from hosting.monitoring.verdict import QUIET_INTERVAL_S, Evidence
from smcp.common.tenancy import as_system

logger = logging.getLogger(__name__)


def record(outcomes: Sequence[Outcome]) -> None:
    """Weighs outcomes, all or nothing, and ends their claims. One whose claim is no longer its own is dropped: it came too late.

    What says nothing of the server only moves its next probe.
    """
    if not outcomes:
        return
    with as_system():
        held = claims.release(o.address for o in outcomes)
        mine = [o for o in outcomes if o.address.environment in held]
        judged = [o for o in mine if o.is_ok is not None]
        Probe.objects.bulk_create([_probe(o) for o in judged], batch_size=500)
        add_minutes([_minute(o) for o in judged])
        observe({(o.address.tenant, o.address.environment): [_evidence(o)] for o in judged})
        undecided = [o for o in mine if o.is_ok is None]
        if undecided:
            reasons = Counter(o.failure for o in undecided)
            logger.info("probes.undecided %s", " ".join(f"{why}={n}" for why, n in reasons.items()))
            again_at = max(o.at for o in undecided) + timedelta(seconds=QUIET_INTERVAL_S)
            HealthState.objects.filter(environment_id__in=[o.address.environment for o in undecided]).update(
                next_probe_at=again_at
            )


def _evidence(outcome: Outcome) -> Evidence:
    return Evidence(
        at=outcome.at,
        is_ok=bool(outcome.is_ok),
        source="probe",
        latency_ms=outcome.latency_ms if outcome.is_ok else None,
        failure=outcome.failure,
    )


def _probe(outcome: Outcome) -> Probe:
    return Probe(
        tenant_id=outcome.address.tenant,
        environment_id=outcome.address.environment,
        at=outcome.at,
        is_ok=bool(outcome.is_ok),
        latency_ms=outcome.latency_ms,
        era=outcome.address.era,
        failure=outcome.failure,
    )


def _minute(outcome: Outcome) -> Minute:
    return Minute(
        tenant=outcome.address.tenant,
        environment=outcome.address.environment,
        minute=outcome.at.replace(second=0, microsecond=0),
        source="probe",
        requests=1,
        failures=0 if outcome.is_ok else 1,
        latency_ms_sum=outcome.latency_ms,
        latency_ms_max=outcome.latency_ms,
    )
