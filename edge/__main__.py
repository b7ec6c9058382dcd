"""`python -m edge`: run the local Cloudflare until SIGTERM or SIGINT. Exit 2: told wrongly; 1: cannot start."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvloop

from edge.app import StartError, serve
from edge.config import Config, ConfigError, parse_config
from edge.lanes import is_any_busy

log = logging.getLogger("edge")


def main(argv: Sequence[str]) -> int:
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr
    )
    try:
        config = parse_config(argv)
    except ConfigError as exc:
        return _fail(str(exc), 2)
    try:
        with data_directory(config.data), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(config))
    except (StartError, ConfigError) as exc:
        return _fail(str(exc), 1)
    if is_any_busy():
        # Python would wait for the thread. SQLite undoes at the next start what this one did not commit.
        log.warning("edge.ended with a statement that could not be interrupted")
        logging.shutdown()
        os._exit(0)
    return 0


async def run(config: Config) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with serve(config) as (api_port, workers_port):
        log.info(
            "edge.ready api=http://%s:%d workers=http://%s:%d",
            config.host,
            api_port,
            config.host,
            workers_port,
        )
        await stop.wait()
        log.info("edge.stopping")


@contextmanager
def data_directory(path: Path) -> Iterator[None]:
    """The data directory, for us alone: two edges on one would corrupt each other's view. Raises StartError."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (path / "lock").open("w")
    except OSError as exc:
        raise StartError(f"Cannot use {path} as data directory: {exc.strerror}.") from exc
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise StartError(f"Another edge already uses {path}; choose another --data.") from exc
        yield


def _fail(sentence: str, code: int) -> int:
    sys.stderr.write(f"edge: {sentence}\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
