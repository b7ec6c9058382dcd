"""What is read of a server's answer, however it is cut into pieces and whatever it is."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest

from hosting.mcp import (
    ANSWER_MAX,
    LEGACY,
    MODERN,
    Answer,
    Session,
    discover,
    initialize,
    ping,
    result_of,
    session_of,
)

FOUND = {"jsonrpc": "2.0", "id": 1, "result": {"supportedVersions": [MODERN]}}
TEXT = json.dumps(FOUND).encode()
STREAM = "text/event-stream; charset=utf-8"
JSON = "application/json"
CLIENT = {"name": "a client", "version": "1"}


def read(pieces: Iterable[bytes], content_type: str) -> dict[str, Any] | None:
    answer = Answer(content_type=content_type)
    if not any(answer.feed(piece) for piece in pieces):
        answer.end()
    return answer.message


def cut(body: bytes, size: int) -> list[bytes]:
    return [body[at : at + size] for at in range(0, len(body), size)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10_000])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_an_answer_on_a_stream_is_found_however_it_is_cut(size: int, end: str) -> None:
    pretty = json.dumps(FOUND, indent=1).split("\n")
    lines = [
        *(": keep-alive", ""),
        *('data: {"jsonrpc":"2.0","method":"notifications/message"}', ""),
        *('data:{"jsonrpc":"2.0","id":2,"result":{}}', ""),
        *("event: message", "id: 4", *(f"data: {line}" for line in pretty), "", ""),
    ]
    assert read(cut(end.join(lines).encode(), size), STREAM) == FOUND


@pytest.mark.parametrize("size", [1, 10_000])
def test_an_answer_in_a_json_body_is_found_however_it_is_cut(size: int) -> None:
    assert read(cut(TEXT, size), JSON) == FOUND
    assert read(cut(TEXT, size), "") == FOUND


def test_a_stream_is_over_with_the_answer() -> None:
    answer = Answer(content_type=STREAM)
    assert answer.feed(b"data: " + TEXT + b"\n\ndata: more")
    assert answer.message == FOUND


@pytest.mark.parametrize("content_type", [JSON, STREAM])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"[" * 100_000,
        b"\xff",
        b'{"id":1,"result":{}}',
        b'{"jsonrpc":"2.0","id":2,"result":{}}',
    ],
)
def test_what_is_no_answer_is_none(content_type: str, body: bytes) -> None:
    framed = b"data: " + body + b"\n\n" if content_type == STREAM else body
    assert read([framed], content_type) is None


def test_an_event_that_was_not_ended_does_not_count() -> None:
    assert read([b"data: " + TEXT], STREAM) is None


@pytest.mark.parametrize("content_type", [JSON, STREAM])
def test_no_more_is_read_than_the_bound(content_type: str) -> None:
    answer = Answer(content_type=content_type)
    padding = b":" + b" " * 1023
    fed = sum(1 for _ in iter(lambda: answer.feed(padding), True))
    assert fed * len(padding) == ANSWER_MAX
    answer.end()
    assert answer.message is None


def test_a_result_is_told_from_an_error() -> None:
    assert result_of(FOUND) == FOUND["result"]
    assert result_of({"jsonrpc": "2.0", "id": 1, "error": {"code": -32603}}) is None
    assert result_of({"jsonrpc": "2.0", "id": 1, "result": "yes"}) is None
    assert result_of(None) is None


def test_a_session_goes_on_in_the_version_the_server_chose() -> None:
    opened = session_of({"mcp-session-id": "s-1"}, {"protocolVersion": "2025-06-18"})
    assert opened == Session(id="s-1", version="2025-06-18")
    assert opened.headers == {"mcp-session-id": "s-1", "mcp-protocol-version": "2025-06-18"}
    assert session_of({"mcp-session-id": "s-1"}, {}) == Session(id="s-1", version=LEGACY)
    assert session_of({}, {"protocolVersion": LEGACY}) is None


def test_each_era_is_asked_in_its_own_words() -> None:
    modern = discover(CLIENT)
    assert modern.headers["mcp-protocol-version"] == MODERN
    assert modern.headers["mcp-method"] == json.loads(modern.body)["method"] == "server/discover"
    legacy = json.loads(initialize(CLIENT).body)
    assert (legacy["method"], legacy["params"]["protocolVersion"]) == ("initialize", LEGACY)
    assert "params" not in json.loads(ping(Session(id="s", version=LEGACY)).body)
