"""What this node knows of the world: Routes, credentials, suspensions and revocations, found by one look in a dict each.

A Table is filled from facts and only ever grows newer: an older version of a fact, or the same again, changes nothing. A full
reload fills a new Table aside and swaps one reference; single changes are applied in place between two awaits, so a reader
never sees half of one.
"""

from __future__ import annotations

from collections.abc import Iterator

from hosting.dataplane.contract import (
    REVOCATIONS_KEPT,
    AnyFact,
    Credential,
    Revocation,
    Route,
    Suspension,
)
from hosting.dataplane.facts.addresses import addresses_of


class Table:
    """The facts of one life of the data (`epoch`), and what is derived from them."""

    def __init__(self, *, epoch: str = "", cursor: str = "0-0") -> None:
        self.epoch = epoch
        self.cursor = cursor  # the last change applied
        self._facts: dict[str, AnyFact] = {}
        self._versions: dict[str, int] = {}
        self._routes = 0
        self._by_address: dict[str, Route] = {}
        self._by_digest: dict[str, Credential] = {}
        self._suspensions: dict[tuple[str, str], str] = {}
        self._revocations: dict[tuple[str, str], float] = {}
        self._ended_by: dict[
            tuple[str, str], dict[str, str]
        ] = {}  # tenant, Principal → session → key, oldest first
        self._surplus: list[str] = []

    def route_at(self, address: str) -> Route | None:
        return self._by_address.get(address)

    def credential(self, digest: str) -> Credential | None:
        return self._by_digest.get(digest)

    def suspension_of(self, route: Route) -> str | None:
        """The reason; None when neither the tenant nor the Server is suspended."""
        if not self._suspensions:
            return None
        reason = self._suspensions.get((route.tenant, ""))
        return reason if reason is not None else self._suspensions.get((route.tenant, route.server_slug))

    def route_now(self, route: Route) -> Route | None:
        """What the Environment's Route has become since; None when it has none any more."""
        return self.route_of(route.environment)

    def has_credential(self, tenant: str, key_id: str) -> bool:
        return f"credential/{tenant}/{key_id}" in self._facts

    def route_of(self, environment: str) -> Route | None:
        found = self._facts.get(f"route/{environment}")
        return found if isinstance(found, Route) else None

    def is_revoked(self, tenant: str, session: str) -> bool:
        return (tenant, session) in self._revocations

    def has_ended(self, route: Route, session: str, issued_at: int) -> bool:
        """Whether somebody has ended this session, or all that the Environment had."""
        return issued_at <= route.sessions_after or self.is_revoked(route.tenant, session)

    def untold(self) -> list[Revocation]:
        """Revocations of sessions whose servers somebody is still to tell."""
        return [fact for fact in self._facts.values() if isinstance(fact, Revocation) and fact.environment]

    @property
    def counts(self) -> dict[str, int]:
        return {
            "routes": self._routes,
            "credentials": len(self._by_digest),
            "suspensions": len(self._suspensions),
            "revocations": len(self._revocations),
        }

    def facts(self) -> list[AnyFact]:
        return list(self._facts.values())

    def note_gone(self, versions: dict[str, int]) -> None:
        """The last versions of facts that are gone, after a full load: nothing older may bring them back.

        One less is kept than was read, since a fact that came back during the load stands in the stream with this very version.
        """
        for key, version in versions.items():
            if key not in self._facts:
                self._versions[key] = version - 1

    def apply(self, fact: AnyFact) -> bool:
        """Whether it was news."""
        key = fact.key
        if fact.version <= self._versions.get(key, -1):
            return False
        self._versions[key] = fact.version
        old = self._facts.pop(key, None)
        if old is not None:
            self._unlink(old)
        if not fact.is_gone:
            self._facts[key] = fact
            self._link(fact)
        return True

    def take_surplus(self) -> list[str]:
        """Keys of revocations that one Principal had too many of. They are forgotten here, and are to be everywhere."""
        taken, self._surplus = self._surplus, []
        return taken

    def drop_expired(self, now: float) -> Iterator[str]:
        """Forgets revocations whose session id has expired anyway; gives their keys."""
        for (tenant, session), until in list(self._revocations.items()):
            if until < now:
                key = Revocation(tenant=tenant, version=0, session=session, until=until).key
                self._forget(key)
                yield key

    def _forget(self, key: str) -> None:
        self._versions.pop(key, None)
        fact = self._facts.pop(key, None)
        if fact is not None:
            self._unlink(fact)

    def _link(self, fact: AnyFact) -> None:
        match fact:
            case Route():
                self._routes += 1
                for address in addresses_of(fact):
                    self._by_address[address] = fact
            case Credential():
                self._by_digest[fact.digest] = fact
            case Suspension():
                self._suspensions[fact.tenant, fact.server_slug] = fact.reason
            case Revocation():
                self._revocations[fact.tenant, fact.session] = fact.until
                if not fact.principal:
                    return
                ended = self._ended_by.setdefault((fact.tenant, fact.principal), {})
                ended[fact.session] = fact.key
                if len(ended) > REVOCATIONS_KEPT:
                    oldest = next(iter(ended.values()))
                    self._surplus.append(oldest)
                    self._forget(oldest)

    def _unlink(self, fact: AnyFact) -> None:
        match fact:
            case Route():
                self._routes -= 1
                for address in addresses_of(fact):
                    if self._by_address.get(address) is fact:
                        del self._by_address[address]
            case Credential():
                if self._by_digest.get(fact.digest) is fact:
                    del self._by_digest[fact.digest]
            case Suspension():
                self._suspensions.pop((fact.tenant, fact.server_slug), None)
            case Revocation():
                self._revocations.pop((fact.tenant, fact.session), None)
                ended = self._ended_by.get((fact.tenant, fact.principal), {})
                ended.pop(fact.session, None)
                if not ended:
                    self._ended_by.pop((fact.tenant, fact.principal), None)
