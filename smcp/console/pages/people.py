"""Actors as people know them: `user:<id>` is an e-mail address, `key:<id>` and `operator:<id>` the name of a key and whose it is."""

from __future__ import annotations

from collections.abc import Iterable

from tenants.models import ApiKey, OperatorKey, User


def describe(actors: Iterable[str]) -> dict[str, str]:
    """For each actor the words to show. Unknown ones stay as they are."""
    wanted: dict[str, set[str]] = {}
    for actor in actors:
        kind, _, id_ = actor.partition(":")
        if id_:
            wanted.setdefault(kind, set()).add(id_)
    names = {"system": "The platform"}
    for user in User.objects.filter(id__in=wanted.get("user", ())):
        names[f"user:{user.id}"] = user.email
    for key in ApiKey.objects.filter(id__in=wanted.get("key", ())):
        names[f"key:{key.id}"] = f"API key “{key.name}”"
    for operator in OperatorKey.objects.filter(id__in=wanted.get("operator", ())):
        names[f"operator:{operator.id}"] = f"An operator, with the key “{operator.name}”"
    return names
