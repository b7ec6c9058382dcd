"""A server's own paths on its own host: where they are allowed, what passes, and what never does."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest

from hosting.dataplane.contract import Dispatch, HealthReport, Limits, Route, Suspension, Target
from tests.dataplane.harness import AUDIENCE, DOMAIN, TENANT, SiteProcess, World
from tests.parts import free_port
from tests.waiting import wait_for

MB = 1024 * 1024


@pytest.fixture(scope="module")
def knobs() -> dict[str, str]:
    return {"stalled_client_s": "3", "body_timeout_s": "2", "report_window_s": "0.3"}


class Visitor:
    """Somebody who asks a server's own host for paths, exactly as they are given."""

    def __init__(self, world: World, route: Route, key: str | None = None) -> None:
        self.host = f"{route.server_slug}--{route.tenant_slug}.{DOMAIN}"
        self.headers = {"host": self.host, "authorization": f"Bearer {key or world.key(tenant=route.tenant)}"}
        self.world = world

    def ask(
        self, path: str, method: str = "GET", *, body: Any = None, **headers: str | None
    ) -> httpx.Response:
        given = {**self.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
        sent = {name: value for name, value in given.items() if value is not None}
        return self.world.http.request(method, self.world.gateway.url + path, headers=sent, content=body)

    def raw(self, request_line: str, *lines: str) -> tuple[int, bytes]:
        """Status and body of one request, byte for byte."""
        head = [request_line, *(f"{name}: {value}" for name, value in self.headers.items()), *lines]
        with socket.create_connection(("127.0.0.1", self.world.gateway.port), 10) as connection:
            connection.sendall("\r\n".join((*head, "connection: close", "", "")).encode("latin-1"))
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
        return int(answer.split(b" ", 2)[1]), answer.partition(b"\r\n\r\n")[2]


def visitor(world: World, site: SiteProcess, slug: str, *targets: Target, **more: Any) -> Visitor:
    route = world.server(slug, *targets, dispatch=site.dispatch, **{"other_paths": True, **more})
    site.forget()
    return Visitor(world, route)


def told(response: httpx.Response) -> dict[str, Any]:
    """What the site says it was asked, header names in lower case."""
    assert response.status_code == 200, response.text
    entry: dict[str, Any] = response.json()
    entry["headers"] = {name.lower(): value for name, value in entry["headers"].items()}
    return entry


class TestWhere:
    def test_on_its_own_host_a_server_answers_at_any_path(self, world: World, site: SiteProcess) -> None:
        asker = visitor(world, site, "paths")
        for path in (
            "/",
            "/hello",
            "/a/b/c.json?x=1&x=2&y=%20z",
            "/caf%C3%A9",
            "/a:b@c;d=1,2",
            "/x?https://y/?z",
        ):
            assert told(asker.ask(path))["path"] == path
        for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"):
            assert told(asker.ask("/thing", method))["method"] == method
        head = asker.ask("/thing?body=hello", "HEAD")
        assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "5")

    def test_unless_its_environment_allows_it_there_is_nothing(self, world: World, site: SiteProcess) -> None:
        asker = visitor(world, site, "paths-closed", other_paths=False)
        for path in ("/hello", "/", "/.well-known/x"):
            assert asker.ask(path).status_code == 404
        assert site.seen == []

    def test_the_shared_host_carries_none(self, world: World, site: SiteProcess) -> None:
        asker = visitor(world, site, "paths-shared")
        for path in ("/acme/paths-shared/hello", "/acme/paths-shared/", "/acme/paths-shared"):
            assert asker.ask(path, host="127.0.0.1").status_code == 404
        assert site.seen == []

    @pytest.mark.acceptance("S4.19")
    @pytest.mark.parametrize(
        "path",
        [
            "/mcp/", "/mcp/x", "/MCP", "/mcp;x", "/Mcp/v1/other", "/sse/", "/sse/a/b", "/SSE", "/ws/", "/ws/x", "/.well-known/",
            "/.well-known/oauth-protected-resource", "/.WELL-known/x", "/api/mcp", "/API/mcp", "/api/mcp/", "/api/mcp/x", "/api/mcp;x",
        ],
    )  # fmt: skip
    def test_mcp_and_what_is_ours_cannot_be_reached_this_way(
        self, world: World, site: SiteProcess, path: str
    ) -> None:
        asker = visitor(world, site, "paths-mcp", world.target(path="/api/mcp"))
        for method in ("GET", "POST"):
            assert asker.ask(path, method).status_code == 404
        assert site.seen == []

    @pytest.mark.acceptance("S4.19")
    @pytest.mark.parametrize(
        "path",
        [
            "//mcp", "/x/../mcp", "/x/%2e%2e/mcp", "/x/%2E./mcp", "/./mcp", "/%6dcp", "/%6D%63%70", "/x%2f..%2fmcp", "/x//y", "/x\\..\\mcp",
            "/x%5c..%5cmcp", "/x%00", "/x%0d%0aset-cookie:a=b", "/x%7f", "/%", "/%zz", "/%c3%a9%2fa", "/x y", "/a|b", "/\xe9",
        ],
    )  # fmt: skip
    def test_a_path_that_two_could_read_differently_is_refused(
        self, world: World, site: SiteProcess, path: str
    ) -> None:
        asker = visitor(world, site, "paths-forms")
        status, body = asker.raw(f"GET {path} HTTP/1.1")
        assert status in {400, 404}, body
        assert site.seen == []

    @pytest.mark.acceptance("S4.19")
    def test_an_absolute_url_is_no_path(self, world: World, site: SiteProcess) -> None:
        asker = visitor(world, site, "paths-absolute")
        for url in (
            "http://elsewhere.example/hello",
            f"http://{asker.host}/hello",
            f"http://{asker.host}/mcp",
        ):
            assert asker.raw(f"GET {url} HTTP/1.1")[0] == 400
        assert site.seen == []

    @pytest.mark.acceptance("S0.26")
    def test_who_may_not_call_the_server_may_not_see_its_paths(self, world: World, site: SiteProcess) -> None:
        asker = visitor(world, site, "paths-keys")
        for key, status in (
            ("smcp_" + "x" * 43, 401),
            (world.key(scopes=("tenant:read",)), 403),
            (world.key(tenant="u" * 26), 401),
        ):
            assert asker.ask("/", authorization=f"Bearer {key}").status_code == status
        refused = asker.ask("/", authorization=None)
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["status"] == 401
        world.publisher.publish(
            Suspension(tenant=TENANT, version=1, server_slug="paths-keys", reason="unpaid")
        )
        world.settle()
        assert asker.ask("/").status_code == 403
        assert site.seen == []

    def test_a_key_in_the_query_goes_nowhere(self, world: World, site: SiteProcess) -> None:
        asker = visitor(world, site, "paths-query")
        assert asker.ask(f"/?token={world.key()}").status_code == 400
        assert asker.ask("/?" + "x" * 9000).status_code == 400
        assert site.seen == []

    @pytest.mark.parametrize("method", ["TRACE", "CONNECT", "TRACK", "get", "X" * 17])
    def test_a_method_that_is_none_is_refused(self, world: World, site: SiteProcess, method: str) -> None:
        asker = visitor(world, site, "paths-methods")
        status, _ = asker.raw(f"{method} /hello HTTP/1.1")
        assert status in {400, 405, 501}
        assert site.seen == []


class TestHeaders:
    @pytest.mark.acceptance("S4.19")
    def test_what_a_server_is_sent_is_on_a_list(self, world: World, site: SiteProcess) -> None:
        asker = visitor(world, site, "headers-in")
        passes = {
            "accept": "text/html", "content-type": "text/plain", "if-none-match": '"1"', "range": "bytes=0-1", "user-agent": "me",
            "x-hub-signature-256": "sha256=1", "traceparent": "00-1", "last-event-id": "7",
        }  # fmt: skip
        stays = {
            "cookie": "session=1", "proxy-authorization": "Basic x", "x-forwarded-for": "1.1.1.1", "x-forwarded-host": "evil",
            "forwarded": "for=1", "x-real-ip": "1.1.1.1", "x-original-url": "/mcp", "x-http-method-override": "DELETE", "via": "x",
            "smcp-assertion": "forged", "mcp-session-id": "s1.x", "connection": "keep-alive, x-hidden", "x-hidden": "1", "te": "trailers",
            "cf-connecting-ip": "1.1.1.1", "x-edge-script": "other", "expect": "", "origin": "https://claude.ai", "referer": "https://x",
            "cloudflare-workers-version-overrides": "x=1", "accept-encoding": "gzip",
        }  # fmt: skip
        headers = told(asker.ask("/", "POST", body=b"hi", **{**passes, **stays}))["headers"]
        assert {name: headers.get(name) for name in passes} == passes
        left = {name for name in stays if name in headers} - {
            "smcp-assertion",
            "connection",
            "accept-encoding",
        }
        assert not left
        assert headers["smcp-assertion"] != "forged"
        assert headers["accept-encoding"] == "identity"
        assert headers["host"] == "dispatcher.test"
        assert "authorization" not in headers
        assert asker.headers["authorization"] not in json.dumps(headers)

    @pytest.mark.acceptance("S4.19")
    def test_what_a_client_is_sent_is_on_a_list(self, world: World, site: SiteProcess) -> None:
        asker = visitor(world, site, "headers-out")
        passes = [
            ["content-type", "text/html"], ["etag", '"7"'], ["cache-control", "max-age=1"], ["content-language", "de"],
            ["content-security-policy", "default-src 'none'"], ["content-disposition", "attachment"], ["x-accel-buffering", "no"],
        ]  # fmt: skip
        stays = [
            ["set-cookie", "a=b; Domain=mcp.test"], ["set-cookie", "__Host-a=b; Secure; Path=/"], ["www-authenticate", "Bearer"],
            ["access-control-allow-origin", "*"], ["access-control-allow-credentials", "true"], ["strict-transport-security", "max-age=9"],
            ["clear-site-data", "*"], ["refresh", "0;url=https://evil.example"], ["service-worker-allowed", "/"], ["alt-svc", "h3=:1"],
            ["link", "<https://evil.example>; rel=preload"], ["x-request-id", "forged"], ["location", "https://evil.example"],
            ["smcp-dispatch-message", "secret"], ["mcp-session-id", "s1.x"], ["x-content-type-options", "sniff"], ["report-to", "{}"],
        ]  # fmt: skip
        response = asker.ask(
            "/?body=x&headers=" + httpx.QueryParams({"": json.dumps(passes + stays)}).__str__()[1:]
        )
        assert response.text == "x"
        for name, value in passes:
            assert response.headers[name] == value
        assert response.headers.get_list("x-content-type-options") == ["nosniff"]
        assert "forged" not in response.headers["x-request-id"]
        left = {name for name, _ in stays} & set(response.headers) - {
            "x-request-id",
            "x-content-type-options",
        }
        assert not left

    def test_a_page_of_a_listed_origin_may_call_and_no_other(self, world: World, site: SiteProcess) -> None:
        asker = visitor(world, site, "headers-cors", allowed_origins=("https://app.example",))
        response = asker.ask("/", origin="https://app.example")
        assert response.headers["access-control-allow-origin"] == "https://app.example"
        assert asker.ask("/", origin="https://evil.example").status_code == 403
        site.forget()
        asked = {
            "origin": "https://app.example", "access_control_request_method": "PUT", "authorization": None,
            "access_control_request_headers": "authorization, idempotency-key, x-forwarded-for",
        }  # fmt: skip
        preflight = asker.ask("/thing", "OPTIONS", **asked)
        assert preflight.status_code == 204
        assert "PUT" in preflight.headers["access-control-allow-methods"]
        allowed = preflight.headers["access-control-allow-headers"].lower()
        assert "idempotency-key" in allowed
        assert "authorization" in allowed
        assert "x-forwarded-for" not in allowed
        assert (
            asker.ask("/thing", "OPTIONS", **{**asked, "origin": "https://evil.example"}).status_code == 403
        )
        assert site.seen == []

    def test_a_header_with_a_line_break_in_it_reaches_nobody(self, world: World, site: SiteProcess) -> None:
        asker = visitor(world, site, "headers-broken")
        status, _ = asker.raw("GET / HTTP/1.1", "user-agent: a\rsmcp-assertion: b")
        assert status == 400
        status, _ = asker.raw("GET / HTTP/1.1", "user-agent: a\x01b")
        assert status == 400
        assert site.seen == []


class TestStatus:
    @pytest.mark.parametrize("status", [200, 201, 204, 304, 400, 404, 405, 409, 418, 422, 429, 500, 503])
    def test_a_servers_status_is_its_own(self, world: World, site: SiteProcess, status: int) -> None:
        response = visitor(world, site, "status").ask(
            f"/?status={status}&body=" + ("" if status in {204, 304} else "why")
        )
        assert response.status_code == status
        assert response.text == ("" if status in {204, 304} else "why")

    @pytest.mark.acceptance("S4.19")
    @pytest.mark.parametrize("status", [401, 403])
    def test_but_it_cannot_ask_for_anybodys_credentials(
        self, world: World, site: SiteProcess, status: int
    ) -> None:
        response = visitor(world, site, "status-denied").ask(f"/?status={status}&body=log+in+at+evil.example")
        assert response.status_code == 502
        assert "evil" not in response.text

    @pytest.mark.parametrize(
        ("location", "passed"),
        [
            ("/next?a=1#b", "/next?a=1#b"),
            ("next", "next"),
            ("?page=2", "?page=2"),
            ("http://dispatcher.test/own", "/own"),
            ("https://DISPATCHER.test", "/"),
            ("http://dispatcher.test//evil.example/x", "/evil.example/x"),
            ("https://status-redirect--acme.mcp.test/own?x", "/own?x"),
            ("https://evil.example/", None),
            ("//evil.example/", None),
            ("///evil.example/", None),
            ("/\\evil.example/", None),
            ("https:evil.example", None),
            ("javascript:alert(1)", None),
            ("https://dispatcher.test@evil.example/", None),
            ("https://dispatcher.test:443@evil.example/", None),
            ("/a b", None),
        ],
    )  # fmt: skip
    def test_a_redirect_stays_on_its_host(
        self, world: World, site: SiteProcess, location: str, passed: str | None
    ) -> None:
        asker = visitor(world, site, "status-redirect")
        headers = str(httpx.QueryParams({"headers": json.dumps([["location", location]])}))
        response = asker.ask(f"/?status=302&body=&{headers}")
        assert response.status_code == (502 if passed is None else 302)
        assert response.headers.get("location") == passed
        assert len(site.seen) == 1

    def test_nobody_there_is_502(self, world: World, site: SiteProcess) -> None:
        dispatch = Dispatch(url=f"http://127.0.0.1:{free_port()}", audience=AUDIENCE)
        route = world.server("status-nobody", dispatch=dispatch, other_paths=True)
        assert Visitor(world, route).ask("/").status_code == 502

    def test_the_dispatchers_word_is_not_the_servers(self, world: World, site: SiteProcess) -> None:
        headers = str(httpx.QueryParams({"headers": json.dumps([["smcp-dispatch-error", "exception"]])}))
        response = visitor(world, site, "status-threw").ask(f"/?status=502&body=secret&{headers}")
        assert (response.status_code, "secret" in response.text) == (502, False)


def exhaust(pieces: Iterator[bytes]) -> None:
    for _ in pieces:
        pass


def rss_mb(world: World) -> float:
    return psutil.Process(world.gateway.pid).memory_info().rss / MB


class TestBodies:
    def test_bodies_pass_byte_for_byte(self, world: World, site: SiteProcess) -> None:
        asker = visitor(world, site, "bodies", limits=Limits(request_bytes=16 * MB))
        for size in (0, 1, 70_000, 8 * MB):
            body = os.urandom(size)
            entry = told(asker.ask("/", "POST", body=body))
            assert (entry["received"], entry["sha256"]) == (size, hashlib.sha256(body).hexdigest())

        def pieces() -> Iterator[bytes]:
            for _ in range(100):
                yield b"x" * 10_000

        assert told(asker.ask("/", "PUT", body=pieces()))["received"] == 1_000_000

    def test_a_request_reaches_the_server_while_it_is_still_being_sent(
        self, world: World, site: SiteProcess
    ) -> None:
        asker = visitor(world, site, "bodies-streamed")
        arrived_before_the_end = threading.Event()

        def pieces() -> Iterator[bytes]:
            yield b"one"
            wait_for(
                lambda: site.seen and site.seen[0]["received"] == 3, 10, what="the first piece to arrive"
            )
            arrived_before_the_end.set()
            yield b"two"

        assert told(asker.ask("/", "POST", body=pieces()))["received"] == 6
        assert arrived_before_the_end.is_set()

    @pytest.mark.acceptance("S4.30")
    def test_a_request_over_the_bound_is_413_announced_or_not(self, world: World, site: SiteProcess) -> None:
        asker = visitor(world, site, "bodies-large", limits=Limits(request_bytes=100_000))
        assert asker.ask("/", "POST", body=b"x" * 100_001).status_code == 413
        assert site.seen == []

        def pieces() -> Iterator[bytes]:
            for _ in range(20):
                yield b"x" * 10_000

        assert asker.ask("/", "POST", body=pieces()).status_code == 413

    def test_a_body_that_does_not_come_is_408(self, world: World, site: SiteProcess) -> None:
        asker = visitor(world, site, "bodies-slow")
        status, _ = asker.raw("POST / HTTP/1.1", "content-length: 10")
        assert status == 408

    @pytest.mark.acceptance("S0.5")
    def test_an_answer_streams_and_a_client_that_does_not_read_holds_the_server_back(
        self, world: World, site: SiteProcess
    ) -> None:
        asker = visitor(world, site, "bodies-down", limits=Limits(response_bytes=512 * MB))
        before = rss_mb(world)
        with world.http.stream("GET", f"{world.gateway.url}/?mb=256", headers=asker.headers) as response:
            assert response.status_code == 200
            wait_for(lambda: site.seen[0].get("left"), 20, what="the gateway to give the client up")
        assert site.seen[0]["sent"] < 64 * MB
        assert rss_mb(world) - before < 32

    def test_an_answer_over_the_bound_is_cut_and_never_looks_whole(
        self, world: World, site: SiteProcess
    ) -> None:
        asker = visitor(world, site, "bodies-over", limits=Limits(response_bytes=MB))
        with pytest.raises(httpx.RemoteProtocolError):
            asker.ask("/?mb=2")
        assert len(asker.ask("/?mb=1").content) == MB

    def test_an_answer_that_breaks_off_never_looks_whole(self, world: World, site: SiteProcess) -> None:
        with pytest.raises(httpx.RemoteProtocolError):
            visitor(world, site, "bodies-cut").ask("/?body=half&cut=1")

    def test_a_client_that_leaves_ends_the_servers_work(self, world: World, site: SiteProcess) -> None:
        asker = visitor(world, site, "bodies-left")
        with world.http.stream("GET", f"{world.gateway.url}/?drip=0.1", headers=asker.headers) as response:
            next(response.iter_raw())
        wait_for(lambda: site.seen[0].get("left"), 10, what="the server to hear of it")

    def test_a_stream_ends_with_what_let_it_in(self, world: World, site: SiteProcess) -> None:
        route = world.server("bodies-revoked", dispatch=site.dispatch, other_paths=True)
        asker = Visitor(world, route, world.key(expires_at=time.time() + 2))
        site.forget()
        with world.http.stream("GET", f"{world.gateway.url}/?drip=0.1", headers=asker.headers) as response:
            pieces = response.iter_raw()
            with pytest.raises(httpx.RemoteProtocolError):
                exhaust(pieces)
        wait_for(lambda: site.seen[0].get("left"), 10, what="the server to hear of it")


def test_requests_are_reported_for_the_servers_health(world: World, site: SiteProcess) -> None:
    asker = visitor(world, site, "paths-reports")
    environment = world.routes["paths-reports"].environment
    for path in ("/?body=12345", "/?status=500&body=x", "/?status=404&body=x", "/?status=403"):
        asker.ask(path)

    def summed() -> tuple[int, int, int]:
        windows = [
            report
            for report in world.publisher.reports()
            if isinstance(report, HealthReport) and report.environment == environment
        ]
        return (
            sum(window.requests for window in windows),
            sum(window.failures for window in windows),
            sum(window.response_bytes for window in windows),
        )

    wait_for(lambda: summed() == (4, 2, 7), 10, what="the requests to be reported")


@pytest.mark.parametrize("status", [218, 299, 420, 520, 599])
def test_a_status_without_a_name_passes(world: World, site: SiteProcess, status: int) -> None:
    answer = visitor(world, site, f"paths-{status}").ask(f"/odd?status={status}&body=x")
    assert (answer.status_code, answer.content) == (status, b"x")
