"""Whether a process does its work yet: asked of the process itself, over the wire where it has one.

`python -m smcp.stack.ready <url>` exits with 0 when the URL is answered with 200: the health check of a container.
"""

from __future__ import annotations

import http.client
import sys
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from smcp.stack.errors import NotReady
from smcp.stack.processes import Child

POLL_S = 0.05
ANSWER_TIMEOUT_S = 5.0

#: Asked again and again until it says yes.
Question = Callable[[Child], bool]


def answers_http(url: str) -> Question:
    """GET `url` is answered with 200."""
    return lambda _: is_answered(url)


def is_answered(url: str) -> bool:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=ANSWER_TIMEOUT_S)
    try:
        connection.request("GET", parts.path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def has_said(words: str) -> Question:
    """One of its log lines contains `words`: for processes that listen nowhere."""
    return lambda child: any(words in line for line in child.lines)


def wait_until_ready(
    child: Child, is_ready: Question, *, timeout_s: float, check: Callable[[], None]
) -> None:
    """Raises NotReady after `timeout_s`, and whatever `check` raises: it is called all the while."""
    deadline = time.monotonic() + timeout_s
    while not is_ready(child):
        check()
        if time.monotonic() > deadline:
            last = child.lines[-1].strip() if child.lines else "nothing"
            raise NotReady(
                f"{child.name} did not become ready within {timeout_s:.0f} s; its last words: {last[:300]}"
            )
        time.sleep(POLL_S)


if __name__ == "__main__":
    sys.exit(0 if is_answered(sys.argv[1]) else 1)
