"""How long `make up` takes until it says that everything is ready, installing left out: a first start, which makes the database and
deploys the demo's server, and later ones, which find everything there.
"""

from __future__ import annotations

import shutil
import signal
import statistics
import tempfile
from pathlib import Path

from tests.bench import figure
from tests.stack.harness import StackRun

LATER_STARTS = 3


def main() -> None:
    """Reports the figures."""
    directory = Path(tempfile.mkdtemp(prefix="stack-bench-"))
    run = StackRun(directory / "var")
    run.command = ("make", "up")
    try:
        first, *later = (_start(run) for _ in range(1 + LATER_STARTS))
    finally:
        shutil.rmtree(directory)
    figure("first start", first, "s")
    figure("second start, median", statistics.median(later), "s", goal=10)
    figure("second start, slowest", max(later), "s")


def _start(run: StackRun) -> float:
    run.start()
    run.end(signal.SIGTERM)  # which make passes on
    leftovers = run.leftovers()
    assert leftovers == [], leftovers
    return run.took_s


if __name__ == "__main__":
    main()
