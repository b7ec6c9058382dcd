"""Bodies, event streams and WebSockets through the router: in order, at the reader's pace, and to the end."""

from __future__ import annotations

import asyncio
import gzip
import io
import itertools
from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientError, ClientResponse, WSMsgType, WSServerHandshakeError

from tests.edge.harness import result
from tests.edge.scripts import EVERYTHING, Stage

SECOND = EVERYTHING.replace("VERSION", "second")


async def lines(answer: ClientResponse) -> AsyncIterator[str]:
    async for line in answer.content:
        if text := line.decode().strip():
            yield text


async def next_line(answer: ClientResponse) -> str:
    return await asyncio.wait_for(anext(lines(answer)), 10)


@pytest.mark.parametrize("size", [0, 1, 100_000, 20 * 1024 * 1024])
async def test_bodies_of_any_size_pass_both_ways(stage: Stage, size: int) -> None:
    name = stage.deploy()
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    async with stage.session(name) as session:
        async with session.post(stage.url("/echo"), data=io.BytesIO(body)) as answer:
            assert answer.headers["x-echo"] == "1"
            assert await answer.read() == body

        async def chunks() -> AsyncIterator[bytes]:
            for start in range(0, len(body), 65536):
                yield body[start : start + 65536]

        async with session.post(stage.url("/echo"), data=chunks()) as answer:
            assert await answer.read() == body


MIRROR = """
  export default { async fetch(request) {
    const body = await request.arrayBuffer();
    const encoding = request.headers.get("content-encoding");
    return new Response(body, { encodeBody: "manual", headers: { "content-encoding": encoding } });
  } }"""


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "none-of-these"])
async def test_a_compressed_body_passes_byte_for_byte_both_ways(stage: Stage, encoding: str) -> None:
    """Unpacking is for whoever reads it, and whether it really is what the header says is not ours to find out."""
    name = stage.deploy(MIRROR)
    headers = {"content-encoding": encoding}
    for body in (gzip.compress(b"x" * 300_000), b"not compressed at all"):
        async with (
            stage.session(name) as session,
            session.post(stage.url("/"), data=body, headers=headers, auto_decompress=False) as answer,
        ):
            assert (answer.status, answer.headers["content-encoding"]) == (200, encoding)
            assert await answer.read() == body


async def test_an_answer_begins_while_the_request_is_still_being_sent(stage: Stage) -> None:
    name = stage.deploy()
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def talk() -> AsyncIterator[bytes]:
        yield b"one\n"
        assert await asyncio.wait_for(heard.get(), 10) == b"one\n"
        yield b"two\n"

    async with stage.session(name) as session, session.post(stage.url("/echo"), data=talk()) as answer:
        async for line in answer.content:
            await heard.put(line)
    assert heard.get_nowait() == b"two\n"


async def test_events_arrive_one_by_one(stage: Stage) -> None:
    name = stage.deploy()
    async with stage.session(name) as session, session.get(stage.url("/events?ms=100")) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        loop = asyncio.get_running_loop()
        times = []
        for number in range(4):
            assert await next_line(answer) == f"data: {number}"
            times.append(loop.time())
        assert all(later - earlier > 0.02 for earlier, later in itertools.pairwise(times))


async def test_a_client_that_leaves_is_noticed_by_the_worker(stage: Stage) -> None:
    binding = {"type": "kv_namespace", "name": "KV", "namespace_id": stage.api.create_kv()}
    name = stage.deploy(bindings=[binding])
    async with stage.session(name) as session:
        async with session.get(stage.url("/watched?k=gone")) as answer:
            assert await next_line(answer) == "data: tick"
        value = f"/storage/kv/namespaces/{binding['namespace_id']}/values/gone"
        async with asyncio.timeout(20):
            while (await asyncio.to_thread(stage.api.get, value)).text != "left":
                pass


async def test_a_reader_that_does_not_read_stops_the_sender(stage: Stage) -> None:
    """64 MB leave the Worker only as fast as they are read, so the edge does not grow by them."""
    name = stage.deploy()
    assert stage.edge.process is not None

    def resident_mb() -> int:
        assert stage.edge.process is not None
        with open(f"/proc/{stage.edge.process.pid}/statm") as file:
            return int(file.read().split()[1]) * 4096 // 2**20

    async with stage.session(name) as session:
        before = resident_mb()
        async with session.get(stage.url("/large?mb=64")) as answer:
            received = len(await answer.content.readexactly(1024 * 1024))
            grown = resident_mb() - before
            async for chunk in answer.content.iter_any():
                received += len(chunk)
        assert received == 64 * 1024 * 1024
        assert grown < 24


async def test_websockets_pass_text_bytes_and_the_end(stage: Stage) -> None:
    name = stage.deploy()
    async with stage.session(name) as session, session.ws_connect(stage.url("/socket")) as socket:
        for text in ("hello", "ü" * 1000, "x" * 500_000):
            await socket.send_str(text)
            assert await socket.receive_str(timeout=10) == text
        await socket.send_bytes(b"\x00\xff" * 10)
        assert await socket.receive_bytes(timeout=10) == b"\x00\xff" * 10
        await socket.close(code=1000)
        assert socket.close_code == 1000


async def test_a_refused_websocket_shows_the_workers_own_answer(stage: Stage) -> None:
    name = stage.deploy()
    async with stage.session(name) as session:
        with pytest.raises(WSServerHandshakeError) as refused:
            await session.ws_connect(stage.url("/refuse-socket"))
        assert refused.value.status == 426


async def test_an_upload_of_one_script_does_not_drop_a_stream_of_another(stage: Stage) -> None:
    streaming, busy = stage.deploy(), stage.deploy()
    async with stage.session(streaming) as session, session.get(stage.url("/events?ms=10")) as answer:
        assert await next_line(answer) == "data: 0"
        for _ in range(3):
            await asyncio.to_thread(stage.deploy, SECOND, name=busy)
        seen = [await next_line(answer) for _ in range(20)]
        numbers = [int(text.removeprefix("data: ")) for text in seen]
        assert numbers == list(range(numbers[0], numbers[0] + 20))


async def test_open_streams_of_the_old_version_go_on_after_an_upload(stage: Stage) -> None:
    name = stage.deploy()
    async with (
        stage.session(name) as session,
        session.get(stage.url("/events?ms=10")) as stream,
        session.ws_connect(stage.url("/socket")) as socket,
    ):
        assert await next_line(stream) == "data: 0"
        await asyncio.to_thread(stage.deploy, SECOND, name=name)
        async with session.get(stage.url("/version")) as answer:
            assert await answer.text() == "second"
        for _ in range(20):
            assert (await next_line(stream)).startswith("data: ")
        await socket.send_str("still here")
        assert await socket.receive_str(timeout=10) == "still here"


async def test_no_request_is_lost_while_a_script_is_uploaded_again_and_again(stage: Stage) -> None:
    name = stage.deploy()
    is_over = asyncio.Event()
    seen: set[str] = set()

    async def ask() -> int:
        asked = 0
        async with stage.session(name) as session:
            while not is_over.is_set():
                async with session.post(stage.url("/version"), data=b"x") as answer:
                    assert answer.status == 200
                    seen.add(await answer.text())
                    asked += 1
        return asked

    askers = [asyncio.create_task(ask()) for _ in range(4)]
    for version in ("v1", "v2", "v3"):
        await asyncio.to_thread(stage.deploy, EVERYTHING.replace("VERSION", version), name=name)
    async with stage.session(name) as session, session.get(stage.url("/version")) as answer:
        assert await answer.text() == "v3"
    is_over.set()
    assert all(count > 0 for count in await asyncio.gather(*askers))
    assert seen <= {"VERSION", "v1", "v2", "v3"}


async def test_a_stream_cut_short_does_not_look_complete(stage: Stage) -> None:
    name = stage.deploy()
    async with stage.session(name) as session, session.get(stage.url("/events?ms=10")) as answer:
        assert await next_line(answer) == "data: 0"
        result(await asyncio.to_thread(stage.api.delete, f"{stage.path}/{name}"))
        with pytest.raises(ClientError):
            await asyncio.wait_for(answer.read(), 10)


async def test_a_hundred_streams_of_one_script_stay_open_together(stage: Stage) -> None:
    name = stage.deploy()
    async with stage.session(name) as session:
        session.connector._limit = 0  # type: ignore[union-attr]
        answers = await asyncio.gather(*(session.get(stage.url("/events?ms=200")) for _ in range(100)))
        assert [await next_line(answer) for answer in answers] == ["data: 0"] * 100
        for answer in answers:
            answer.close()


async def test_a_ping_is_answered_while_a_websocket_is_open(stage: Stage) -> None:
    name = stage.deploy()
    async with (
        stage.session(name) as session,
        session.ws_connect(stage.url("/socket"), autoping=False) as socket,
    ):
        await socket.ping(b"are you there")
        message = await socket.receive(timeout=10)
        assert (message.type, message.data) == (WSMsgType.PONG, b"are you there")
