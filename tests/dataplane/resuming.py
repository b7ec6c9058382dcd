"""A client that reads event by event, leaves, and comes back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from tests.dataplane.harness import Caller, request


class Heard:
    """One connection's events, read one by one."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.lines = response.iter_lines()
        self.last_id = ""
        self.retry = ""

    def __next__(self) -> dict[str, Any]:
        """The next message. Raises StopIteration at the end of the stream."""
        data = ""
        while True:
            line = next(self.lines)
            name, _, value = line.partition(": ")
            if name == "id":
                self.last_id = value
            elif name == "retry":
                self.retry = value
            elif name == "data":
                data = value
            elif not line and data:
                return dict(json.loads(data))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def place(self) -> str:
        """Reads no further than a place to come back to."""
        while not self.last_id:
            name, _, value = next(self.lines).partition(": ")
            if name == "id":
                self.last_id = value
        return self.last_id


@contextmanager
def calling(caller: Caller, tool: str, *, request_id: Any = "long", **arguments: Any) -> Iterator[Heard]:
    body = request("tools/call", {"name": tool, "arguments": arguments}, request_id=request_id)
    with caller.stream(body=body) as response:
        assert response.status_code == 200
        yield Heard(response)


@contextmanager
def resuming(caller: Caller, last_id: str) -> Iterator[Heard]:
    with caller.stream("GET", last_event_id=last_id) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"] == "text/event-stream"
        yield Heard(response)


def progress_in(messages: list[dict[str, Any]]) -> list[int]:
    return [message["params"]["progress"] for message in messages if "params" in message]
