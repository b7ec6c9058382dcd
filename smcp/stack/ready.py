"""Whether a process does its work yet: asked of the process itself, over the wire where it has one.

`python -m smcp.stack.ready <url>` exits with 0 when the URL is answered with 200: the health check of a container.
"""

from __future__ import annotations

import http.client
import sys
from collections.abc import Callable
from urllib.parse import urlsplit

from smcp.stack.processes import Child

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


if __name__ == "__main__":
    sys.exit(0 if is_answered(sys.argv[1]) else 1)
