"""The way out of a script: only where its upload allows, never to a private address, over http and https alike."""

from __future__ import annotations

import gzip
import ipaddress
import ssl
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import psutil
import pytest

from edge.egress import MAX_CONNECTIONS_PER_HOST, is_allowed
from edge.names import is_public, literal
from tests.certificates import make_certificate
from tests.edge.harness import ACCOUNT_A, EdgeProcess
from tests.edge.scripts import Stage, until

Start = Callable[..., EdgeProcess]


class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("location", "http://127.0.0.1:1/")
            self.send_header("content-length", "0")
            self.end_headers()
            return
        edge_headers = [name for name in self.headers if name.lower().startswith("x-edge")]
        body = f"{self.path} {self.headers.get('x-mine')} {edge_headers} {self.headers['host']}".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        """The bytes that came, under the header they came with."""
        body = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.send_header("content-encoding", self.headers["content-encoding"])
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        pass


@dataclass(frozen=True)
class Outside:
    """A server outside the edge, over http and over https with a certificate of its own."""

    http: int
    https: int
    certificate: Path


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    directory = tmp_path_factory.mktemp("tls")
    certificate, key = directory / "cert.pem", directory / "key.pem"
    make_certificate(certificate, key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Echo) for _ in range(2)]
    servers[1].socket = context.wrap_socket(servers[1].socket, server_side=True)
    threads = [threading.Thread(target=server.serve_forever) for server in servers]
    for thread in threads:
        thread.start()
    yield Outside(servers[0].server_port, servers[1].server_port, certificate)
    for server, thread in zip(servers, threads, strict=True):
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def open_stage(own_edge: Start, outside: Outside) -> Iterator[Stage]:
    """A stage whose edge lets scripts reach the outside server, when their upload allows it."""
    flags = [f"--local-egress=localhost:{port}" for port in (outside.http, outside.https)]
    edge = own_edge("--rate-limit", "0", *flags, environ={"SSL_CERT_FILE": str(outside.certificate)})
    with edge.client(ACCOUNT_A) as api:
        yield Stage(edge, api)


def test_without_a_list_nothing_is_reached(open_stage: Stage, outside: Outside) -> None:
    name = open_stage.deploy()
    answer = open_stage.call(name, f"/fetch?url=http://localhost:{outside.http}/")
    assert answer.status_code == 403
    assert f"localhost:{outside.http} is not on the script's allow-list" in answer.text


def test_what_the_upload_allows_is_reached_over_http_and_https(open_stage: Stage, outside: Outside) -> None:
    allow = [f"localhost:{outside.http}", f"localhost:{outside.https}"]
    name = open_stage.deploy(egress={"allow": allow})
    for scheme, port in (("http", outside.http), ("https", outside.https)):
        answer = open_stage.call(name, f"/fetch?url={scheme}://localhost:{port}/path?x=1")
        assert (answer.status_code, answer.text) == (200, f"/path?x=1 kept [] localhost:{port}")


def test_another_port_of_an_allowed_host_is_refused(open_stage: Stage, outside: Outside) -> None:
    name = open_stage.deploy(egress={"allow": [f"localhost:{outside.http}"]})
    assert open_stage.call(name, f"/fetch?url=https://localhost:{outside.https}/").status_code == 403
    assert open_stage.call(name, "/fetch?url=http://localhost/").status_code == 403


def test_a_redirect_is_a_new_request_with_a_new_check(open_stage: Stage, outside: Outside) -> None:
    name = open_stage.deploy(egress={"allow": [f"localhost:{outside.http}"]})
    answer = open_stage.call(name, f"/fetch?url=http://localhost:{outside.http}/redirect")
    assert answer.status_code == 302


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0.0.0.0/",
        "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/",
        "http://192.168.1.1/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[fd00:ec2::254]/",
        "http://localhost/",
        "https://localhost/",
        "https://127.0.0.1/",
    ],
)
def test_a_private_address_is_refused_although_the_upload_allows_it(stage: Stage, url: str) -> None:
    hosts = ["127.0.0.1", "0.0.0.0", "169.254.169.254", "10.0.0.1", "192.168.1.1", "localhost"]
    allow = [f"{host}:{port}" for host in hosts for port in (80, 443)]
    name = stage.deploy(egress={"allow": allow})
    answer = stage.call(name, f"/fetch?url={url}")
    assert answer.status_code == 403
    assert "Egress refused" in answer.text


def test_a_name_that_does_not_resolve_is_cloudflares_1016(stage: Stage) -> None:
    name = stage.deploy(egress={"allow": ["nowhere.invalid:80"]})
    answer = stage.call(name, "/fetch?url=http://nowhere.invalid/")
    assert (answer.status_code, answer.text) == (530, "error code: 1016")


SENDER = """
  export default { async fetch(request) {
    const { searchParams } = new URL(request.url);
    const body = await request.arrayBuffer();
    const headers = { "content-encoding": searchParams.get("encoding") };
    const send = () => fetch(searchParams.get("url"), { method: "POST", headers, body });
    const answers = await Promise.all(Array.from({ length: Number(searchParams.get("times")) }, send));
    if (searchParams.has("pass")) return answers[0];
    return Response.json(answers.map((answer) => answer.status));
  } }"""


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_compressed_body_leaves_and_comes_back_byte_for_byte(
    open_stage: Stage, outside: Outside, encoding: str
) -> None:
    name = open_stage.deploy(SENDER, egress={"allow": [f"localhost:{outside.http}"]})
    body = gzip.compress(b"x" * 300_000)
    path = f"/?times=1&pass&encoding={encoding}&url=http://localhost:{outside.http}/"
    headers = open_stage.headers(name)
    with (
        httpx.Client(trust_env=False, timeout=30) as client,
        client.stream("POST", open_stage.url(path), content=body, headers=headers) as answer,
    ):
        assert (answer.status_code, answer.headers["content-encoding"]) == (200, encoding)
        assert b"".join(answer.iter_raw()) == body


def test_a_refused_body_that_would_unpack_to_a_flood_costs_no_more_than_another(stage: Stage) -> None:
    """Unpacking 1.6 GB takes the edge seconds; to pass on or throw away the same bytes takes it none."""
    name = stage.deploy(SENDER)
    packer = zlib.compressobj(wbits=31)
    flood = b"".join([*(packer.compress(bytes(2**20)) for _ in range(200)), packer.flush()])
    assert stage.edge.process is not None
    edge = psutil.Process(stage.edge.process.pid)

    def cost_s(encoding: str) -> float:
        before = edge.cpu_times()
        path = f"/?times=8&encoding={encoding}&url=http://x.example.com/"
        assert stage.call(name, path, method="POST", content=flood).json() == [403] * 8
        after = edge.cpu_times()
        return after.user + after.system - before.user - before.system

    cost_s("identity")
    assert cost_s("gzip") < 5 * cost_s("identity") + 0.5


def test_raw_tcp_is_refused(stage: Stage) -> None:
    code = """
      import { connect } from "cloudflare:sockets";
      export default { async fetch() {
        try { const socket = connect("127.0.0.1:22"); await socket.opened; return new Response("open"); }
        catch (error) { return new Response(error.message, { status: 599 }); } } }"""
    assert stage.call(stage.deploy(code, egress={"allow": ["127.0.0.1:22"]})).status_code == 599


def test_a_list_entry_means_exactly_what_it_says() -> None:
    allow = ("example.com:443", "*.wild.example:443")
    assert is_allowed("example.com", 443, allow)
    assert is_allowed("a.wild.example", 443, allow)
    assert is_allowed("a.b.wild.example", 443, allow)
    for host, port in (
        ("example.com", 80),
        ("sub.example.com", 443),
        ("example.com.evil.example", 443),
        ("wild.example", 443),
        ("evilwild.example", 443),
    ):
        assert not is_allowed(host, port, allow)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "100.64.0.1", "169.254.169.254", "224.0.0.1", "240.0.0.1", "::1", "fe80::1", "fc00::1",
     "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1:7f00:0:100:808:808", "2002:7f00:1::", "::"],
)  # fmt: skip
def test_no_private_address_passes_for_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


def test_public_addresses_pass_in_every_spelling() -> None:
    for text in ("1.1.1.1", "2606:4700:4700::1111", "0x01010101", "64:ff9b::101:101"):
        address = literal(text)
        assert address is not None
        assert is_public(address)
    assert literal("example.com") is None


class Holding(ThreadingHTTPServer):
    """Answers `/held` when it is told to, everything else at once."""

    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HoldingEcho)
        self.held: list[str] = []
        self.let_go = threading.Event()


class HoldingEcho(Echo):
    def do_GET(self) -> None:
        if self.path == "/held":
            assert isinstance(self.server, Holding)
            self.server.held.append(self.path)
            assert self.server.let_go.wait(60)
        super().do_GET()


def test_a_script_that_holds_its_connections_keeps_no_other_from_the_same_host(own_edge: Start) -> None:
    server = Holding()
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    many = """export default { async fetch(request) {
      const url = new URL(request.url).searchParams.get("url");
      const answers = await Promise.all(Array.from({ length: 70 }, () => fetch(url)));
      return Response.json(answers.map((answer) => answer.status));
    } }"""
    place = f"localhost:{server.server_port}"
    edge = own_edge("--rate-limit", "0", f"--local-egress={place}")
    with edge.client(ACCOUNT_A) as api, ThreadPoolExecutor(1) as pool:
        stage = Stage(edge, api)
        holder = stage.deploy(many, egress={"allow": [place]})
        other = stage.deploy(egress={"allow": [place]})
        holding = pool.submit(stage.call, holder, f"/?url=http://{place}/held", timeout_s=60)
        until(lambda: len(server.held) == MAX_CONNECTIONS_PER_HOST)
        assert stage.call(other, f"/fetch?url=http://{place}/").status_code == 200
        assert not holding.done()
        server.let_go.set()
        assert holding.result().json() == [200] * 70
    server.shutdown()
    server.server_close()
    serving.join()
