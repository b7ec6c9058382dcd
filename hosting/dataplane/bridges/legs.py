"""Which era a request is carried in to its server: not always the one its client speaks. Pure decisions.

A legacy client is better off on the modern leg wherever the server has one and keeps no session for legacy clients: such a server's
legacy leg cannot ask the client anything, nor tell it anything by itself. Where a session moved to another Release, that one decides.
Source: docs/decisions/0021.
"""

from __future__ import annotations

from hosting.dataplane.call import Plan
from hosting.dataplane.contract import Era, Route, Target
from hosting.dataplane.protocol.era import bridges_modern
from hosting.dataplane.protocol.errors import UNKNOWN_SESSION, Refusal


def set_leg_of_legacy_client(plan: Plan, *, heals: bool) -> None:
    """Sets `plan.leg`; marks a Plan whose session must first be opened at a server that keeps sessions.

    Raises Refusal: the session was the server's own, is gone with its Release, and may not be healed.
    """
    session, target = plan.session, plan.target
    if session is None:
        plan.leg = _preferred(target)
        return
    if session.release == target.release and session.leg in target.eras:
        plan.leg = session.leg
        return
    plan.leg = _preferred(target)
    if plan.leg == "legacy":
        plan.is_stranded = plan.is_stranded or session.leg == "modern"
    elif session.upstream_id and not heals:
        raise Refusal(UNKNOWN_SESSION, request_id=plan.first_id)


def _preferred(target: Target) -> Era:
    if "modern" not in target.eras:
        return "legacy"
    return "legacy" if target.issues_sessions and "legacy" in target.eras else "modern"


def is_modern_client_bridged(route: Route, target: Target) -> bool:
    """Whether a modern request that was not declined is carried in the legacy era."""
    return bridges_modern(route, target)
