"""What a legacy server said of itself in `initialize`, and of its tools: what `server/discover` and the checks before a call need.

Kept for a while, so that neither costs a round trip: for one Environment, Release, Principal and set of client capabilities, never
for two. Bounded in number, bytes and age; a node that restarts asks again.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import msgspec

from hosting.dataplane.bridges.to_legacy.answers import complete
from hosting.dataplane.bridges.to_legacy.headers import ToolRule, rule_of
from hosting.dataplane.bridges.to_legacy.requests import RawObject
from hosting.dataplane.protocol.errors import BROKEN_ANSWER, INVALID_PARAMS, JsonRpcId, Refusal

LIFE_S = 300.0
MAX_KEPT = 2000
MAX_KEPT_BYTES = 32 * 1024 * 1024
MAX_RULES = 2000  # tools of one server that have a rule
MAX_RULES_BYTES = 256 * 1024  # of their names
MAX_URIS = 200  # that one listener may subscribe to

Key = tuple[str, str, str, int]  # Environment, Release, Principal, capability bits

_LIST_CHANGES = {
    "toolsListChanged": "tools",
    "promptsListChanged": "prompts",
    "resourcesListChanged": "resources",
}


class _Capability(msgspec.Struct):
    listChanged: bool = False  # noqa: N815 - the protocol's spelling
    subscribe: bool = False


class _Initialized(msgspec.Struct):
    protocolVersion: str  # noqa: N815 - the protocol's spelling
    capabilities: RawObject = {}
    serverInfo: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET  # noqa: N815
    instructions: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


@dataclass(slots=True)
class Facts:
    """Of one server, as one client sees it."""

    revision: str
    capabilities: RawObject
    server: msgspec.Raw | None
    instructions: msgspec.Raw | None
    size: int
    at: float = field(default_factory=time.monotonic)
    can_listen: bool | None = None  # whether it has a stream for what it says by itself; None: not known yet
    tools: dict[str, ToolRule] | None = None  # those that have a rule; None: not known (any more)
    tools_at: float = 0.0

    def learn_tools(self, rules: dict[str, ToolRule] | None) -> None:
        """What all of its tools ask of a call; None: there are more than were looked at."""
        if rules is not None:
            self.tools, self.tools_at = rules, time.monotonic()

    @property
    def knows_tools(self) -> bool:
        return self.tools is not None and time.monotonic() - self.tools_at < LIFE_S

    @property
    def may_have_news(self) -> bool:
        kinds = set(_LIST_CHANGES.values())
        return self.offers("resources", "subscribe") or any(
            self.offers(kind, "listChanged") for kind in kinds
        )

    def has(self, capability: str) -> bool:
        return capability in self.capabilities

    def offers(self, capability: str, what: str) -> bool:
        """Whether a capability has `listChanged` or `subscribe`, and a stream to tell it on."""
        raw = self.capabilities.get(capability)
        try:
            found = msgspec.json.decode(raw, type=_Capability) if raw is not None else _Capability()
        except msgspec.MsgspecError:
            return False
        return self.can_listen is not False and bool(getattr(found, what))


def read_initialized(result: bytes) -> Facts:
    """Raises Refusal."""
    try:
        told = msgspec.json.decode(result, type=_Initialized)
    except msgspec.MsgspecError:
        raise Refusal(BROKEN_ANSWER) from None
    return Facts(
        revision=told.protocolVersion,
        capabilities=told.capabilities,
        server=None if told.serverInfo is msgspec.UNSET else told.serverInfo,
        instructions=None if told.instructions is msgspec.UNSET else told.instructions,
        size=len(result),
    )


def discovered(facts: Facts, versions: list[str], request_id: JsonRpcId) -> bytes:
    """The answer to `server/discover`."""
    told: dict[str, Any] = {"supportedVersions": versions, "capabilities": _capabilities(facts)}
    if facts.instructions is not None:
        told["instructions"] = facts.instructions
    return complete(request_id, "server/discover", told, facts.server)


def _capabilities(facts: Facts) -> dict[str, Any]:
    """Without what cannot exist across the bridge: tasks; and, where the server has no stream, news."""
    kept: dict[str, Any] = {name: raw for name, raw in facts.capabilities.items() if name != "tasks"}
    if facts.can_listen is False:
        for name in set(_LIST_CHANGES.values()) & set(kept):
            kept[name] = _without_news(kept[name])
    return kept


def _without_news(raw: msgspec.Raw) -> Any:
    try:
        told = msgspec.json.decode(raw, type=RawObject)
    except msgspec.MsgspecError:
        return {}
    return {name: value for name, value in told.items() if name not in {"listChanged", "subscribe"}}


class _Tools(msgspec.Struct):
    tools: list[RawObject] = []
    nextCursor: msgspec.Raw | None = None  # noqa: N815 - the protocol's spelling


def rules_in(pages: list[bytes]) -> dict[str, ToolRule] | None:
    """The rules of the tools of these pages; None when there are more pages, or they are not what they should be."""
    rules: dict[str, ToolRule] = {}
    found = _Tools()
    try:
        for page in pages:
            found = msgspec.json.decode(page, type=_Tools)
            rules.update(filter(None, map(rule_of, found.tools)))
    except (msgspec.MsgspecError, RecursionError):
        return None
    size = sum(len(name) + rule.size for name, rule in rules.items())
    is_kept = len(rules) <= MAX_RULES and size <= MAX_RULES_BYTES
    return rules if found.nextCursor is None and is_kept else None


class _Filter(msgspec.Struct):
    toolsListChanged: bool | None = None  # noqa: N815 - the protocol's spelling
    promptsListChanged: bool | None = None  # noqa: N815
    resourcesListChanged: bool | None = None  # noqa: N815
    resourceSubscriptions: list[str] | None = None  # noqa: N815


@dataclass(frozen=True, slots=True)
class Interests:
    """What a listener wants to hear: notifications' methods, and the URIs of resources."""

    methods: frozenset[str]
    uris: tuple[str, ...]

    @property
    def is_empty(self) -> bool:
        return not self.methods and not self.uris

    def as_filter(self) -> dict[str, Any]:
        told: dict[str, Any] = {
            name: True for name, kind in _LIST_CHANGES.items() if _changed(kind) in self.methods
        }
        return {**told, "resourceSubscriptions": list(self.uris)} if self.uris else told

    def match(self, method: str, uri: str) -> bool:
        """`uri` is of `notifications/resources/updated`, and may lie below one that was subscribed to."""
        if method != UPDATED:
            return method in self.methods
        return any(uri == wanted or uri.startswith(f"{wanted.rstrip('/')}/") for wanted in self.uris)


UPDATED = "notifications/resources/updated"
NEWS = frozenset({UPDATED, *(f"notifications/{kind}/list_changed" for kind in _LIST_CHANGES.values())})


def _changed(kind: str) -> str:
    return f"notifications/{kind}/list_changed"


def interests_in(params: RawObject, facts: Facts) -> Interests:
    """Of what `subscriptions/listen` asks for, what this server can tell. Raises Refusal."""
    try:
        wanted = msgspec.json.decode(params["notifications"], type=_Filter)
    except (msgspec.MsgspecError, KeyError):
        raise Refusal(INVALID_PARAMS, "params.notifications is not what it should be") from None
    methods = frozenset(
        _changed(kind)
        for name, kind in _LIST_CHANGES.items()
        if getattr(wanted, name) and facts.offers(kind, "listChanged")
    )
    uris = wanted.resourceSubscriptions if facts.offers("resources", "subscribe") else None
    return Interests(methods, tuple(dict.fromkeys(uris or ()))[:MAX_URIS])


class FactsKept:
    """One per process."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Key, Facts] = OrderedDict()
        self._size = 0

    def get(self, key: Key) -> Facts | None:
        found = self._kept.get(key)
        if found is None or time.monotonic() - found.at > LIFE_S:
            return None
        self._kept.move_to_end(key)
        return found

    def put(self, key: Key, facts: Facts) -> None:
        self._drop(key)
        self._kept[key] = facts
        self._size += facts.size
        while len(self._kept) > MAX_KEPT or self._size > MAX_KEPT_BYTES:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: Key) -> None:
        found = self._kept.pop(key, None)
        if found is not None:
            self._size -= found.size
