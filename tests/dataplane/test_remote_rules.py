"""What both planes must agree on about servers that run elsewhere, rule by rule."""

from __future__ import annotations

import ipaddress
import secrets
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

from hosting.dataplane.remotes import (
    Allowed,
    CannotOpen,
    check_url,
    is_public,
    literal,
    open_headers,
    parse_allowed,
    private_ring,
    public_ring,
    seal_headers,
)

V4 = st.ip_addresses(v=4)
WHERE = {"tenant": "t", "environment": "e", "url": "https://e.com/mcp"}
HEADERS = (("Authorization", "Bearer x"), ("X-Key", "y"))


class TestAddresses:
    @pytest.mark.parametrize(
        "text", ["8.8.8.8", "1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "2a00:1450:4001:830::200e"]
    )
    def test_what_everybody_can_reach_is_public(self, text: str) -> None:
        assert is_public(ipaddress.ip_address(text))

    @settings(deadline=None)  # a busy machine proves nothing
    @given(address=V4)
    def test_ipv4_in_the_clothes_of_ipv6_never_is(self, address: ipaddress.IPv4Address) -> None:
        low = int(address)
        for base in (
            "::ffff:0:0", "::", "::ffff:0:0:0", "64:ff9b::", "64:ff9b:1::", "2001::", "2002::", "fe80::5efe:0:0",
        ):  # fmt: skip
            assert not is_public(ipaddress.IPv6Address(int(ipaddress.IPv6Address(base)) | low))
        assert not is_public(ipaddress.IPv6Address((0x2002 << 112) | (low << 80)))
        assert not is_public(ipaddress.IPv6Address((0x0064FF9B0001 << 80) | (low << 48) | 0x08080808))

    @settings(deadline=None)  # a busy machine proves nothing
    @given(address=V4)
    def test_nothing_is_public_that_the_registries_do_not_call_global(
        self, address: ipaddress.IPv4Address
    ) -> None:
        assert not is_public(address) or (address.is_global and not address.is_multicast)

    @settings(deadline=None)  # a busy machine proves nothing
    @given(address=V4)
    def test_every_way_to_write_an_address_is_seen_to_be_one(self, address: ipaddress.IPv4Address) -> None:
        a, b, c, d = address.packed
        number = int(address)
        spellings = [str(address), str(number), hex(number), f"0{number:o}", f"{a}.{number & 0xFFFFFF}"]
        spellings += [f"{a}.{b}.{(c << 8) + d}", f"0x{a:x}.0{b:o}.{c}.{d}", f"[::ffff:{address}]"]
        for host in spellings:
            assert literal(host) is not None
            assert is_public(address) or check_url(f"https://{host}/", Allowed())


class TestUrls:
    @pytest.mark.parametrize(
        "url",
        [
            "https://[2606:4700::1111]evil.example/", "https://e.example:/", "https://e.example:0443/", "https://\u212a.example/",
            "https://e\uff0eexample/", "https://e.example\\@10.0.0.1/", "https:/e.example/", "https:///e.example/", "https://e..example/",
            "https://e.example\t/", " https://e.example/", "https://e.example/\n", "https://e%2eexample/", "https://-e.example/",
        ],
    )  # fmt: skip
    def test_what_two_readers_could_read_differently_is_refused(self, url: str) -> None:
        assert check_url(url, Allowed())

    @settings(deadline=None)  # a busy machine proves nothing
    @given(rest=st.text(alphabet="ab1.:@/\\?#[]%-_~0x\u212a", max_size=30))
    def test_whoever_connects_reads_the_host_that_was_checked(self, rest: str) -> None:
        url = f"https://{rest}"
        if not check_url(url, Allowed()):
            assert URL(url, encoded=True).host == urlsplit(url).hostname


class TestAllowed:
    def test_a_network_lets_in_its_addresses_under_any_name(self) -> None:
        allowed = parse_allowed("10.1.0.0/16, fd00:1::/32")
        assert allowed.may_connect("a.example", ipaddress.ip_address("10.1.2.3"))
        assert allowed.may_connect("a.example", ipaddress.ip_address("fd00:1::5"))
        assert not allowed.may_connect("a.example", ipaddress.ip_address("10.2.0.1"))
        assert not allowed.may_connect("a.example", ipaddress.ip_address("::ffff:10.1.2.3"))
        assert allowed.may_be_plain("10.1.2.3")
        assert not allowed.may_be_plain("a.example")

    def test_a_name_lets_in_itself_whatever_its_address(self) -> None:
        allowed = parse_allowed("MCP.corp.example")
        assert allowed.may_connect("mcp.corp.example", ipaddress.ip_address("10.1.2.3"))
        assert not allowed.may_connect("x.mcp.corp.example", ipaddress.ip_address("10.1.2.3"))
        assert allowed.may_be_plain("mcp.corp.example")

    @pytest.mark.parametrize(
        "text", ["10.0.0.0/33", "10.0.0.1/8", "http://x", "a b", "*", "*.example", "127.1"]
    )
    def test_what_cannot_be_meant_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="is no host name"):
            parse_allowed(text)


class TestSealing:
    def test_what_is_sealed_with_public_keys_opens_with_the_gateways(self) -> None:
        ring = {"a": secrets.token_bytes(32)}
        sealed = seal_headers(HEADERS, ring=public_ring(ring), **WHERE)
        assert "Bearer" not in sealed
        assert open_headers(sealed, ring=private_ring(ring), **WHERE) == HEADERS
        assert set(public_ring(ring).values()).isdisjoint(ring.values())

    def test_keys_rotate_by_their_ids(self) -> None:
        old, new = {"a": secrets.token_bytes(32)}, {"b": secrets.token_bytes(32)}
        before = seal_headers(HEADERS, ring=public_ring({**old, **new}), **WHERE)
        after = seal_headers(HEADERS, ring=public_ring({**new, **old}), **WHERE)
        assert (before.split(".")[1], after.split(".")[1]) == ("a", "b")
        both = private_ring({**new, **old})
        assert open_headers(before, ring=both, **WHERE) == open_headers(after, ring=both, **WHERE) == HEADERS
        with pytest.raises(CannotOpen):
            open_headers(before, ring=private_ring(new), **WHERE)

    @pytest.mark.parametrize("field", ["tenant", "environment", "url"])
    def test_they_open_nowhere_else(self, field: str) -> None:
        ring = {"a": secrets.token_bytes(32)}
        sealed = seal_headers(HEADERS, ring=public_ring(ring), **WHERE)
        with pytest.raises(CannotOpen):
            open_headers(sealed, ring=private_ring(ring), **{**WHERE, field: "other"})

    @settings(deadline=None)  # a busy machine proves nothing
    @given(at=st.integers(0, 10_000), byte=st.characters(codec="ascii"))
    def test_an_altered_text_does_not_open(self, at: int, byte: str) -> None:
        ring = {"a": b"k" * 32}
        sealed = seal_headers(HEADERS, ring=public_ring(ring), **WHERE)
        at %= len(sealed)
        altered = sealed[:at] + byte + sealed[at + 1 :]
        if altered != sealed:
            with pytest.raises(CannotOpen):
                open_headers(altered, ring=private_ring(ring), **WHERE)
