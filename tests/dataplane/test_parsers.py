"""The parsers, for every input: what they accept they read as everybody would, what they refuse they refuse with their own error."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hosting.dataplane.contract import Route, Target
from hosting.dataplane.eras.modern import decode_value
from hosting.dataplane.facts.addresses import Hosts, addresses_of, is_slug, split_host
from hosting.dataplane.facts.buckets import BUCKETS, bucket_of, pick_target
from hosting.dataplane.protocol.era import hear
from hosting.dataplane.protocol.errors import JsonRpcId, Refusal
from hosting.dataplane.protocol.event_ids import (
    MAX_EVENT_ID,
    LoggedEvent,
    Numbering,
    ServersEvent,
    parse_event_id,
    wrap_event_id,
)
from hosting.dataplane.protocol.jsonrpc import MAX_DEPTH, is_deeper_than, parse
from hosting.dataplane.protocol.sse import Event, EventParser, EventTooLarge, encode_event
from hosting.dataplane.sessions.seal import NotSealed, Seal
from hosting.dataplane.sessions.session import (
    Sessions,
    UnknownSession,
    capabilities_of,
    capability_bits,
    opened,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=8), inside, max_size=4),
    max_leaves=20,
)
ROUTE = Route(tenant="t", version=1, environment="e", tenant_slug="a", server_slug="b", environment_slug="c")


class TestJson:
    @given(
        params=st.dictionaries(st.text(), JSON, max_size=4), request_id=st.integers() | st.text(max_size=50)
    )
    def test_a_message_is_read_as_json_reads_it(self, params: dict[str, Any], request_id: int | str) -> None:
        body = json.dumps({"jsonrpc": "2.0", "id": request_id, "method": "x", "params": params}).encode()
        message = parse(body)
        assert not isinstance(message, list)
        assert (message.kind, message.id, message.method, message.params) == (
            "request",
            request_id,
            "x",
            params,
        )

    @given(
        body=st.binary(max_size=200)
        | st.text(max_size=200).map(str.encode)
        | JSON.map(json.dumps).map(str.encode)
    )
    def test_any_bytes_are_a_message_or_a_refusal(self, body: bytes) -> None:
        refusals = []
        try:
            parse(body)
        except Refusal as refusal:
            refusals.append((refusal.status, json.loads(refusal.body())["error"]["code"]))
        assert set(refusals) <= {(400, -32700), (400, -32600)}

    @given(half=st.characters(categories=["Cs"]), place=st.sampled_from(["id", "method"]))
    def test_an_id_or_method_that_utf8_cannot_say_is_refused(self, half: str, place: str) -> None:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "x", place: half}).encode()
        with pytest.raises(Refusal) as refused:
            parse(body)
        assert json.loads(refused.value.body())["error"]["code"] == -32600

    @given(key=st.text(max_size=5), path=st.sampled_from(["", "params", "arguments"]), filler=JSON)
    def test_a_key_twice_in_the_top_three_levels_is_refused(self, key: str, path: str, filler: Any) -> None:
        name, value = json.dumps(key), json.dumps(filler)
        twice = f"{name}:{value},{name}:1"
        inside = {
            "": f'"jsonrpc":"2.0","id":1,"method":"x",{twice}',
            "params": f'"jsonrpc":"2.0","id":1,"method":"x","params":{{{twice}}}',
            "arguments": f'"jsonrpc":"2.0","id":1,"method":"x","params":{{"arguments":{{{twice}}}}}',
        }[path]
        with pytest.raises(Refusal):
            parse(f"{{{inside}}}".encode())

    @given(value=JSON, limit=st.integers(0, 12))
    def test_depth_is_what_it_is(self, value: Any, limit: int) -> None:
        def depth(value: Any) -> int:
            if isinstance(value, dict):
                return 1 + max(map(depth, value.values()), default=0)
            if isinstance(value, list):
                return 1 + max(map(depth, value), default=0)
            return 0

        assert is_deeper_than(json.dumps(value).encode(), limit) == (depth(value) > limit)

    @pytest.mark.parametrize("opener", [b"[", b'{"a":', b'[{"a":'])
    def test_depth_without_end_is_refused(self, opener: bytes) -> None:
        with pytest.raises(Refusal):
            parse(opener * (MAX_DEPTH * 1000))

    def test_depth_takes_no_longer_to_find_the_deeper_it_is(self) -> None:
        def cpu_s(depth: int) -> float:
            body = b"[" + (b"[" * depth + b"]" * depth + b",") * (2**20 // depth) + b"1]"
            began = time.process_time()
            assert not is_deeper_than(body, MAX_DEPTH)
            return time.process_time() - began

        assert cpu_s(MAX_DEPTH - 2) < 5 * cpu_s(2)

    @pytest.mark.parametrize("opener", ["[", '{"a":'])
    @pytest.mark.parametrize("batch", [False, True])
    def test_a_server_that_nests_without_end_does_not_speak_mcp(self, opener: str, batch: bool) -> None:
        deep = f'{{"jsonrpc":"2.0","id":1,"result":{opener * 100_000}'
        with pytest.raises(msgspec.MsgspecError):
            hear((f"[{deep}" if batch else deep).encode())


class TestEvents:
    EVENTS = st.lists(
        st.builds(
            Event,
            data=st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=40).map(str.encode),
            id=st.none() | st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), min_size=1, max_size=9).map(str.encode),
            retry_ms=st.none() | st.integers(0, 10**8),
        ),
        max_size=5,
    )  # fmt: skip

    @given(
        events=EVENTS,
        cuts=st.lists(st.integers(0, 500), max_size=12),
        end=st.sampled_from([b"\n", b"\r", b"\r\n"]),
    )
    def test_events_are_the_same_however_they_are_cut(
        self, events: list[Event], cuts: list[int], end: bytes
    ) -> None:
        text = b"".join(
            encode_event(event.data, event_id=event.id, retry_ms=event.retry_ms) for event in events
        )
        text = b"\xef\xbb\xbf" + text.replace(b"\n", end)
        parser, heard, at = EventParser(10_000), [], 0
        for cut in [*sorted(cuts), len(text)]:
            heard += parser.feed(text[at:cut])
            at = max(at, cut)
        # A lone CR at the very end is only known to end its line when something follows.
        heard += parser.feed(b": x\n\n")
        assert heard == events

    @given(noise=st.lists(st.binary(max_size=60), max_size=20))
    def test_any_bytes_are_events_or_too_large(self, noise: list[bytes]) -> None:
        parser = EventParser(200)
        try:
            for piece in noise:
                for event in parser.feed(piece):
                    assert b"\r" not in event.data
                    assert len(event.data) <= 200
                    again = EventParser(1000).feed(encode_event(event.data, retry_ms=event.retry_ms))
                    assert [told.data for told in again] == [event.data]
        except EventTooLarge:
            assert sum(map(len, noise)) > 200

    def test_one_byte_at_a_time_costs_no_more_than_all_at_once(self) -> None:
        parser = EventParser(10_000_000)
        for _ in range(200_000):
            parser.feed(b"x")
        assert len(parser._pieces) == 200_000  # kept as they came, joined once at the end of the line

    @given(
        raw=st.binary(min_size=1, max_size=300),
        request_id=st.none() | st.integers(-(2**53), 2**53) | st.text(alphabet=st.characters(codec="utf-8")),
    )
    def test_event_ids_come_back_as_they_were_or_not_at_all(self, raw: bytes, request_id: JsonRpcId) -> None:
        wrapped = wrap_event_id(raw, request_id)
        assert wrapped is not None
        assert wrapped.isascii()
        assert len(wrapped) <= MAX_EVENT_ID
        try:
            event = parse_event_id(wrapped.decode())
            assert isinstance(event, ServersEvent)
            assert event.raw.encode("latin-1") == raw
            named = event.request_id
            assert named == request_id or (named is None and len(wrapped) + 2 * len(str(request_id)) > 400)
        except Refusal:
            assert not raw.decode("latin-1").isprintable()

    @given(
        sequence=st.integers(0, 10**15 - 1),
        requests=st.lists(
            st.integers(-(2**53), 2**53) | st.text(alphabet=st.characters(codec="utf-8")), max_size=9
        ),
    )
    def test_places_in_a_log_come_back_as_they_were(self, sequence: int, requests: list[JsonRpcId]) -> None:
        given_out = Numbering("0123456789abcdef", requests).at(sequence)
        assert given_out.isascii()
        assert len(given_out) <= MAX_EVENT_ID
        event = parse_event_id(given_out.decode())
        assert isinstance(event, LoggedEvent)
        assert (event.stream, event.sequence) == ("0123456789abcdef", sequence)
        assert event.requests == tuple(requests) or (event.requests is None and len(str(requests)) > 100)

    @given(st.text() | st.from_regex(r"[ur]1\.[0-9a-f]{0,20}\.[0-9]{0,20}\.[\w.-]{0,20}"))
    def test_whatever_is_no_event_id_is_refused(self, text: str) -> None:
        with suppress(Refusal):  # and by nothing else
            parse_event_id(text)


class TestSeals:
    KEYS = {"new": b"n" * 32, "old": b"o" * 32}

    @given(plain=st.binary(max_size=300), context=st.binary(max_size=50))
    def test_what_was_sealed_is_opened_in_its_own_context_only(self, plain: bytes, context: bytes) -> None:
        seal = Seal(self.KEYS, "test")
        text = seal.seal(plain, context)
        assert seal.open(text, context) == plain
        for other, where in (
            (seal, context + b"x"),
            (Seal(self.KEYS, "other"), context),
            (Seal({"new": b"x" * 32}, "test"), context),
        ):
            with pytest.raises(NotSealed):
                other.open(text, where)

    @given(
        text=st.text(max_size=100)
        | st.text("s1.newold", max_size=30)
        | st.binary(max_size=60).map(lambda b: "s1.new." + b.hex())
    )
    def test_any_text_is_refused(self, text: str) -> None:
        with pytest.raises(NotSealed):
            Seal(self.KEYS, "test").open(text, b"")

    @given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
    def test_one_bit_is_enough(self, at: int, bit: int) -> None:
        seal = Seal(self.KEYS, "test")
        text = bytearray(seal.seal(b"plain", b"").encode())
        text[at % len(text)] ^= 1 << bit
        with pytest.raises(NotSealed):
            seal.open(text.decode("latin-1"), b"")

    def test_a_retired_key_still_opens_while_it_is_in_the_ring(self) -> None:
        before = Seal({"old": b"o" * 32}, "test").seal(b"plain", b"")
        assert Seal(self.KEYS, "test").open(before, b"") == b"plain"
        assert Seal(self.KEYS, "test").seal(b"plain", b"").startswith("s1.new.")


class TestSessions:
    @given(
        revision=st.text(max_size=10),
        release=st.text(max_size=26),
        upstream_id=st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=128),
        bits=st.integers(0, 255),
        principal=st.text(max_size=40),
    )
    def test_a_session_comes_back_whole_and_fits(
        self, revision: str, release: str, upstream_id: str, bits: int, principal: str
    ) -> None:
        sessions = Sessions(TestSeals.KEYS)
        new = sessions.new(principal=principal, now=1000.5, capabilities=bits)
        session = opened(new, revision=revision, release=release, upstream_id=upstream_id)
        text = sessions.mint(session, ROUTE)
        assert len(text) <= 512
        assert all(0x21 <= ord(character) <= 0x7E for character in text)
        assert sessions.open(text, route=ROUTE, principal=principal, now=1001) == session

    def test_it_is_over_after_thirty_days_and_before_it_began(self) -> None:
        sessions = Sessions(TestSeals.KEYS)
        text = sessions.mint(sessions.new(principal="p", now=1_000_000, capabilities=0), ROUTE)
        for now in (1_000_000 - 61, 1_000_000 + 30 * 24 * 3600):
            with pytest.raises(UnknownSession):
                sessions.open(text, route=ROUTE, principal="p", now=now)
        assert sessions.open(text, route=ROUTE, principal="p", now=1_000_000 + 29 * 24 * 3600)

    def test_a_principals_sessions_survive_the_rotation_of_keys(self) -> None:
        old = Sessions({"old": b"o" * 32})
        text = old.mint(old.new(principal="p", now=1000, capabilities=0), ROUTE)
        assert Sessions(TestSeals.KEYS).open(text, route=ROUTE, principal="p", now=1000)

    def test_capabilities_become_bits(self) -> None:
        assert capability_bits({}) == 0
        assert capability_bits({"roots": {}, "elicitation": {"form": {}}}) == 0b10_0000_0101
        assert capability_bits({"elicitation": {"url": {}}, "sampling": None}) == 0b1100
        declared: dict[str, dict]
        for declared in (
            {},
            {"roots": {"listChanged": True}},
            {"elicitation": {"form": {}, "url": {}}, "sampling": {}},
        ):
            assert capabilities_of(capability_bits(declared)) == declared


class TestBuckets:
    @given(environment=st.text(max_size=30), sticky=st.text(max_size=30))
    def test_a_bucket_is_stable_and_in_range(self, environment: str, sticky: str) -> None:
        assert 0 <= bucket_of(environment, sticky) < BUCKETS
        assert bucket_of(environment, sticky) == bucket_of(environment, sticky)

    @pytest.mark.acceptance("S2.11")
    @given(
        weights=st.lists(st.integers(0, 10_000), min_size=1, max_size=5), bucket=st.integers(0, BUCKETS - 1)
    )
    def test_every_bucket_has_a_target_with_weight(self, weights: list[int], bucket: int) -> None:
        targets = [
            Target(script=str(at), release=str(at), weight=weight) for at, weight in enumerate(weights)
        ]
        target = pick_target(targets, bucket)
        assert (target is None) == (sum(weights) == 0)
        assert target is None or target.weight > 0

    @pytest.mark.acceptance("S2.14")
    def test_raising_a_share_moves_callers_one_way_only(self) -> None:
        buckets = [bucket_of("e", f"caller-{number}") for number in range(5000)]
        moved: set[int] = set()
        for share in (0, 1000, 2500, 5000, 10_000):
            targets = [
                Target(script="old", release="old", weight=10_000 - share),
                Target(script="new", release="new", weight=share),
            ]
            now = {
                at
                for at, bucket in enumerate(buckets)
                if (pick_target(targets, bucket) or targets[0]).release == "new"
            }
            assert moved <= now
            assert abs(len(now) / len(buckets) - share / 10_000) < 0.03
            moved = now


class TestAddresses:
    SLUG = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True).filter(is_slug)

    @given(tenant=SLUG, server=SLUG, environment=SLUG)
    def test_two_environments_never_share_an_address(
        self, tenant: str, server: str, environment: str
    ) -> None:
        here = self.route(tenant, server, environment)
        for other in (
            self.route(server, tenant, environment),
            self.route(tenant, environment, server),
            self.route(environment, server, tenant),
        ):
            if (here.tenant_slug, here.server_slug, here.environment_slug) != (
                other.tenant_slug,
                other.server_slug,
                other.environment_slug,
            ):
                assert not set(addresses_of(here)) & set(addresses_of(other))

    @given(slug=st.text(max_size=70))
    def test_what_is_no_slug_has_no_address(self, slug: str) -> None:
        if not is_slug(slug):
            assert addresses_of(self.route("a", slug, "production")) == []

    @given(host=st.text(max_size=80), path=st.text(max_size=40))
    def test_any_host_and_path_are_an_address_or_none(self, host: str, path: str) -> None:
        hosts = Hosts(shared=frozenset({"gateway.test"}), domain="mcp.test")
        name = split_host(host)
        place = hosts.knock_of(name, path) if name is not None else None
        if place is None:
            return
        label = "" if name == "gateway.test" else str(name).removesuffix(".mcp.test")
        assert place.address in ({label} if label else {path, "/".join(path.split("/")[:3]) + "/mcp"})
        assert not label or place.door != "other" or place.rest == path

    @pytest.mark.parametrize(
        ("path", "place"),
        [
            ("/acme/web/mcp", ("/acme/web/mcp", "mcp", "")),
            ("/acme/web~dev/mcp/v1/init", ("/acme/web~dev/mcp", "init", "")),
            ("/acme/web/mcp/v1/message", ("/acme/web/mcp", "message", "")),
            ("/acme/web/mcp/v1/stream/s1.k.x-y_z", ("/acme/web/mcp", "stream", "s1.k.x-y_z")),
            ("/acme/web/sse", ("/acme/web/mcp", "sse", "")),
            ("/acme/web/sse/s1.k.x", ("/acme/web/mcp", "sse", "s1.k.x")),
            ("/acme/web/ws", ("/acme/web/mcp", "ws", "")),
        ],
    )
    def test_the_other_doors_stand_beside_mcp(self, path: str, place: tuple[str, str, str]) -> None:
        hosts = Hosts(shared=frozenset({"gateway.test"}), domain="mcp.test")
        assert hosts.knock_of("gateway.test", path) == place
        own = path.removeprefix("/acme/web").removeprefix("~dev")
        assert hosts.knock_of("web--acme.mcp.test", own) == ("web--acme", *place[1:])

    @pytest.mark.parametrize(
        "path",
        [
            "/acme/web/sse/", "/acme/web/sse/a/b", "/acme/web//sse", "//acme/web/sse", "/acme/web/sse/%41", "x/acme/web/sse",
            "/acme/web/ws/", "/acme/web/WS", "/acme/web/mcp/v1/stream/", "/acme/web/mcp/v1", "/acme/web/%73se", "/acme/web/hello",
            "/acme/sse", "/sse", "*", "", "/acme/web/sse/" + "a" * 513, "/acme/web/sse/a;b",
        ],
    )  # fmt: skip
    def test_what_is_nearly_a_door_is_none(self, path: str) -> None:
        place = Hosts(shared=frozenset({"gateway.test"}), domain="mcp.test").knock_of("gateway.test", path)
        assert place == (path, "mcp", "")  # looked up as it is, and found nowhere

    def route(self, tenant: str, server: str, environment: str) -> Route:
        return Route(
            tenant="t",
            version=1,
            environment="e",
            tenant_slug=tenant,
            server_slug=server,
            environment_slug=environment,
        )


@given(value=st.text())
def test_a_header_value_is_decoded_or_refused(value: str) -> None:
    decoded = decode_value(value)
    assert decoded is None or decoded == value or value.startswith("=?base64?")
