"""What bodies may hold of memory: in the whole process, and of one tenant.

Requests in flight are counted elsewhere; what they cost is their bytes. Whoever holds a body takes its bytes as they come, not as
they are announced, and gives them back. The last quarter of both bounds is for the first SMALL_BYTES of every body, so that
ordinary requests go on while somebody fills the rest. Beyond: 429 where it is the tenant's, 503 where it is the process's.
"""

from __future__ import annotations

import asyncio

from hosting.dataplane.protocol.errors import HEAVY, OVERLOADED_BYTES, RETRY_SOON, Refusal

SMALL_BYTES = 64 * 1024


class _Tenant:
    """Kept while it holds something, or somebody counts for it."""

    __slots__ = ("held", "shares", "turn")

    def __init__(self) -> None:
        self.held = 0
        self.shares = 0
        self.turn = asyncio.Lock()


class Holdings:
    """One per process."""

    def __init__(self, *, process_bytes: int, tenant_bytes: int) -> None:
        self._process_bytes = process_bytes
        self._tenant_bytes = tenant_bytes
        self._tenants: dict[str, _Tenant] = {}
        self._held = 0

    @property
    def held(self) -> int:
        """Bytes, of all tenants."""
        return self._held

    def open(self, tenant: str) -> Share:
        """For one request; close it."""
        found = self._tenants.get(tenant)
        if found is None:
            found = self._tenants[tenant] = _Tenant()
        found.shares += 1
        return Share(self, tenant, found)

    def close(self, name: str, tenant: _Tenant) -> None:
        tenant.shares -= 1
        if not tenant.shares:
            self._tenants.pop(name, None)

    def add(self, tenant: _Tenant, size: int, *, is_small: bool) -> None:
        """Raises Refusal, and then nothing was taken."""
        if tenant.held + size > _room(self._tenant_bytes, is_small=is_small):
            raise Refusal(HEAVY, headers=RETRY_SOON)
        if self._held + size > _room(self._process_bytes, is_small=is_small):
            raise Refusal(OVERLOADED_BYTES, headers=RETRY_SOON)
        tenant.held += size
        self._held += size

    def remove(self, tenant: _Tenant, size: int) -> None:
        tenant.held -= size
        self._held -= size


def _room(limit: int, *, is_small: bool) -> int:
    return limit if is_small else limit - limit // 4


class Share:
    """What one request holds. Closed, it counts nothing any more: what outlives its request (a renewal others wait for) is small."""

    __slots__ = ("_holdings", "_is_closed", "_name", "_size", "_tenant")

    def __init__(self, holdings: Holdings, name: str, tenant: _Tenant) -> None:
        self._holdings = holdings
        self._name = name
        self._tenant = tenant
        self._size = 0
        self._is_closed = False

    @property
    def turn(self) -> asyncio.Lock:
        """For work of which a tenant may have one at a time."""
        return self._tenant.turn

    def take(self, size: int) -> None:
        """Raises Refusal: 429, 503."""
        if self._is_closed:
            return
        self._holdings.add(self._tenant, size, is_small=self._size + size <= SMALL_BYTES)
        self._size += size

    def give(self, size: int) -> None:
        if self._is_closed:
            return
        self._holdings.remove(self._tenant, size)
        self._size -= size

    def close(self) -> None:
        self.give(self._size)
        self._is_closed = True
        self._holdings.close(self._name, self._tenant)
