"""What we believe of an Environment, as every page asks for it."""

from __future__ import annotations

from hosting.models import Environment, HealthState


def health_of(environment: Environment) -> HealthState | None:
    """None: never deployed, or retired. What is retired has no health, whatever was believed of it last."""
    if environment.state == Environment.State.RETIRED:
        return None
    return getattr(environment, "health", None)
