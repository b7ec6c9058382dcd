"""One function decides which Release a caller gets: canaries, dark launches and stickiness all come from it.

A caller's bucket depends on the Environment and on the caller alone, so raising a Release's share only ever moves callers
towards it, and a caller who has moved stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

from hosting.dataplane.contract import Route, Target
from hosting.dataplane.protocol.errors import NOTHING_DEPLOYED, Refusal

BUCKETS = 10_000


def bucket_of(environment: str, sticky: str) -> int:
    """0 … BUCKETS-1, the same on every node and for ever."""
    digest = blake2b(f"{environment}\0{sticky}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % BUCKETS


def pick_target(targets: Sequence[Target], bucket: int) -> Target | None:
    """The target whose share of the weights holds the bucket; None when no target has any weight.

    Weights that do not add up to BUCKETS are taken as proportions.
    """
    if len(targets) == 1:
        return targets[0] if targets[0].weight > 0 else None
    total = sum(target.weight for target in targets)
    if total <= 0:
        return None
    point = bucket * total // BUCKETS
    for target in targets:
        point -= target.weight
        if point < 0:
            return target
    return None


def choose_target(route: Route, *, sticky: str, release: str = "") -> Target:
    """The pinned Release while it still is a target, otherwise by bucket. Raises Refusal when nothing is deployed."""
    if release:
        for target in route.targets:
            if target.release == release:
                return target
    chosen = pick_target(route.targets, bucket_of(route.environment, sticky))
    if chosen is None or (chosen.remote is None and route.dispatch is None):
        raise Refusal(NOTHING_DEPLOYED, headers=(("retry-after", "5"),))
    return chosen
