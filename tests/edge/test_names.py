"""Names that Workers fetch from: found within bounds, checked, and nobody waits for a name another asked for."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from http.server import ThreadingHTTPServer
from threading import Thread

import pytest

from edge.config import is_name_server
from edge.names import IN_FLIGHT, Names, Refused, ScriptNames
from tests.edge.harness import ACCOUNT_A, EdgeProcess
from tests.edge.nameserver import NameServer
from tests.edge.scripts import Stage, until
from tests.edge.test_egress import Echo

FETCH_ALL = """
  export default { async fetch(request) {
    const { urls } = await request.json();
    const answers = await Promise.all(urls.map((url) => fetch(url)));
    return Response.json(answers.map((answer) => answer.status));
  } }"""


@asynccontextmanager
async def names_of(server: NameServer) -> AsyncIterator[Names]:
    names = Names([server.address])
    await names.start()
    try:
        yield names
    finally:
        await names.stop()


async def addresses(names: ScriptNames, host: str, port: int = 80) -> list[str]:
    return [found["host"] for found in await names.resolve(host, port, socket.AF_UNSPEC)]


def test_a_name_nobody_answers_for_delays_no_other_script(own_edge: Callable[..., EdgeProcess]) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    serving = Thread(target=server.serve_forever)
    serving.start()
    port = server.server_port
    with NameServer({"here.example": ["127.0.0.1"]}) as dns, ThreadPoolExecutor(1) as pool:
        edge = own_edge("--rate-limit", "0", "--dns", dns.address, f"--local-egress=here.example:{port}")
        with edge.client(ACCOUNT_A) as api:
            stage = Stage(edge, api)
            patient = stage.deploy(FETCH_ALL, egress={"allow": ["*.slow.example:80"]})
            quick = stage.deploy(egress={"allow": [f"here.example:{port}"]})
            urls = ",".join(f'"http://n{number}.slow.example/"' for number in range(IN_FLIGHT + 4))
            waiting = pool.submit(
                stage.call, patient, "/", method="POST", content=f'{{"urls":[{urls}]}}', timeout_s=60
            )
            until(lambda: len(dns.unanswered()) >= IN_FLIGHT)
            answer = stage.call(quick, f"/fetch?url=http://here.example:{port}/path")
            assert not waiting.done()
            assert (answer.status_code, answer.text) == (200, f"/path kept [] here.example:{port}")
            assert waiting.result().json() == [530] * (IN_FLIGHT + 4)
    server.shutdown()
    server.server_close()
    serving.join()


async def test_a_script_has_only_so_many_look_ups_in_flight() -> None:
    hosts = [f"n{number}.slow.example" for number in range(IN_FLIGHT * 2)]
    with NameServer({host: ["1.1.1.1"] for host in hosts}) as dns:
        async with names_of(dns) as names:
            own = ScriptNames(names, ())
            looking = [asyncio.create_task(addresses(own, host)) for host in hosts]
            await asyncio.to_thread(until, lambda: len(dns.unanswered()) >= IN_FLIGHT)
            asked = dns.unanswered()
            dns.is_silent = False
            assert await asyncio.gather(*looking) == [["1.1.1.1"]] * len(hosts)
    assert asked == set(hosts[:IN_FLIGHT])


async def test_a_name_that_was_not_found_is_not_looked_up_again_at_once() -> None:
    with NameServer({}) as dns:
        async with names_of(dns) as names:
            for _ in range(2):
                with pytest.raises(OSError, match="not found"):
                    await addresses(ScriptNames(names, ()), "a.slow.example")
                asked = dns.asked["a.slow.example"]
                dns.asked.clear()
    assert asked == 0


async def test_only_public_addresses_of_a_name_are_given() -> None:
    with NameServer(
        {
            "inside.example": ["10.0.0.1"],
            "mixed.example": ["127.0.0.1", "1.1.1.1"],
            "near.example": ["127.0.0.1"],
        }
    ) as dns:
        async with names_of(dns) as names:
            own = ScriptNames(names, frozenset({"near.example:8000"}))
            for host in (
                "inside.example",
                "near.example",
                "near.example.",
                "localhost",
                "LOCALHOST.",
                "x.localhost",
            ):
                with pytest.raises(Refused):
                    await addresses(own, host)
            assert await addresses(own, "mixed.example") == ["1.1.1.1"]
            assert await addresses(own, "near.example", 8000) == ["127.0.0.1"]


def test_a_name_server_is_an_address_with_or_without_a_port() -> None:
    for text in ("1.1.1.1", "1.1.1.1:53", "2001:db8::1", "2001:db8::0", "[2001:db8::1]:5353"):
        assert is_name_server(text)
    for text in ("", "x.example", "1.1.1", "1.1.1.1:0", "1.1.1.1:99999", "1.1.1.1:x", "[::1"):
        assert not is_name_server(text)
