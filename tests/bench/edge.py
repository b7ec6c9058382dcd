"""What it costs to run Workers on the edge: from upload to the first answer, memory per script, a cold start, a call.

Times are as a client sees them, through the dispatcher Worker. Memory is proportional (PSS): pages shared by several processes
count once in all.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import httpx

from tests.bench import figure
from tests.edge.harness import ACCOUNT_A, EdgeProcess, unique
from tests.edge.scripts import EVERYTHING, OBJECTS, Stage, until, workerd_pids

UPLOADS = 50
RUNNING = 20
COLD_ROUNDS = 5
COLD_SCRIPTS = 10
CALLS = 500


def main() -> None:
    """Reports the figures."""
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="edge-bench-"))
        stack.callback(shutil.rmtree, directory)
        edge = EdgeProcess(directory / "data", "--rate-limit", "0").start()
        stack.callback(edge.stop)
        api = stack.enter_context(edge.client(ACCOUNT_A))
        caller = stack.enter_context(httpx.Client(trust_env=False, timeout=30))
        stage = Stage(edge, api)
        _uploads(stage, caller)
        _memory(stage, caller)
        _calls(stage, caller)
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="edge-bench-"))
        stack.callback(shutil.rmtree, directory)
        edge = EdgeProcess(directory / "data", "--rate-limit", "0", "--idle", "0.5").start()
        stack.callback(edge.stop)
        api = stack.enter_context(edge.client(ACCOUNT_A))
        caller = stack.enter_context(httpx.Client(trust_env=False, timeout=30))
        _cold(Stage(edge, api), caller)


def _uploads(stage: Stage, caller: httpx.Client) -> None:
    for kind, more, goal in (("plain", {}, 150.0), ("with_objects", OBJECTS, None)):
        took = []
        for _ in range(UPLOADS):
            name, started = unique("bench"), time.perf_counter()
            stage.deploy(name=name, **more)
            _call(stage, caller, name)
            took.append((time.perf_counter() - started) * 1000)
            stage.api.delete(f"{stage.path}/{name}")
        figure(f"upload_to_answer.{kind}.p50_ms", quantile(took, 0.5), "ms", goal=goal)
        figure(f"upload_to_answer.{kind}.p95_ms", quantile(took, 0.95), "ms")


def _memory(stage: Stage, caller: httpx.Client) -> None:
    before = workerd_pids(stage.edge)
    names = [stage.deploy(EVERYTHING, bindings=stage.storage()) for _ in range(RUNNING)]
    for name in names:
        for _ in range(5):
            _call(stage, caller, name)
    sizes = [_proportional_mb(pid) for pid in workerd_pids(stage.edge) - before]
    assert len(sizes) == RUNNING
    figure("memory_per_script.mean_mb", sum(sizes) / RUNNING, "MB", goal=15.0)
    figure("memory_per_script.largest_mb", max(sizes), "MB")


def _calls(stage: Stage, caller: httpx.Client) -> None:
    name = stage.deploy()
    took = []
    for _ in range(CALLS):
        started = time.perf_counter()
        _call(stage, caller, name)
        took.append((time.perf_counter() - started) * 1000)
    figure("call.p50_ms", quantile(took, 0.5), "ms")
    figure("call.p99_ms", quantile(took, 0.99), "ms")


def _cold(stage: Stage, caller: httpx.Client) -> None:
    """The dispatcher is kept warm: what is measured is the start of the script behind it."""
    names = [stage.deploy() for _ in range(COLD_SCRIPTS)]
    took = []
    for _ in range(COLD_ROUNDS):
        until(lambda: len(workerd_pids(stage.edge)) == 0)
        _call(stage, caller, "nobody", status=502)
        for name in names:
            started = time.perf_counter()
            _call(stage, caller, name)
            took.append((time.perf_counter() - started) * 1000)
    figure("cold_start.p50_ms", quantile(took, 0.5), "ms")
    figure("cold_start.p95_ms", quantile(took, 0.95), "ms", goal=250.0)


def _call(stage: Stage, caller: httpx.Client, name: str, *, status: int = 200) -> None:
    answer = caller.get(stage.url("/version"), headers=stage.headers(name))
    assert answer.status_code == status, answer.text


def _proportional_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"process {pid} has no Pss")


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, round(len(values) * share))]


if __name__ == "__main__":
    main()
