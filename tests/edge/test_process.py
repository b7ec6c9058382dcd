"""The process: how it starts, refuses to start, stops, and what it still knows afterwards; who waits for whom."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from tests.edge.harness import ACCOUNT_A, EdgeClient, EdgeProcess, error, result, unique
from tests.edge.scripts import until

NAMESPACES = "/storage/kv/namespaces"
SLOW = "WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM r WHERE i < 20000000) SELECT count(*) AS n FROM r"


class Contents:
    """A bit of everything, written and checked again."""

    def __init__(self, api: EdgeClient) -> None:
        self.kv, self.bucket, self.database = api.create_kv(), api.create_r2(), api.create_d1()
        self.large = os.urandom(300_000)
        result(api.put(f"{NAMESPACES}/{self.kv}/values/small", content=b"small"))
        result(api.put(f"{NAMESPACES}/{self.kv}/values/large", content=self.large))
        result(api.put(f"/r2/buckets/{self.bucket}/objects/o", content=self.large))
        sql = "CREATE TABLE t(a); INSERT INTO t VALUES(42)"
        result(api.post(f"/d1/database/{self.database}/query", json={"sql": sql}))

    def check(self, api: EdgeClient) -> None:
        assert api.get(f"{NAMESPACES}/{self.kv}/values/small").content == b"small"
        assert api.get(f"{NAMESPACES}/{self.kv}/values/large").content == self.large
        assert api.get(f"/r2/buckets/{self.bucket}/objects/o").content == self.large
        answer = api.post(f"/d1/database/{self.database}/query", json={"sql": "SELECT a FROM t"})
        assert result(answer)[0]["results"] == [{"a": 42}]


def files(edge: EdgeProcess) -> set[Path]:
    """The files that hold values, not indexes."""
    return {path for kind in ("kv", "r2") for path in (edge.data / kind).glob("*/*/files/*/*")}


def test_a_restart_and_a_kill_keep_everything_that_was_answered(own_edge):
    edge = own_edge()
    with edge.client() as api:
        contents = Contents(api)
        contents.check(api)
    assert edge.stop() == 0
    edge.start()
    with edge.client() as api:
        contents.check(api)
    edge.kill()
    edge.start()
    with edge.client() as api:
        contents.check(api)


def test_a_kill_during_uploads_leaves_no_file_nobody_names(own_edge):
    edge = own_edge()
    with edge.client() as api:
        contents = Contents(api)
    before = files(edge)
    halfway = threading.Event()

    def forever() -> Iterator[bytes]:
        while True:
            yield b"x" * 1_000_000
            if len(files(edge)) > len(before):
                halfway.set()

    def upload() -> None:
        with edge.client() as client, pytest.raises(httpx.TransportError):
            client.put(f"/r2/buckets/{contents.bucket}/objects/half", content=forever())

    uploading = threading.Thread(target=upload)
    uploading.start()
    assert halfway.wait(20)
    edge.kill()
    uploading.join(20)
    edge.start()
    with edge.client() as api:
        assert error(api.get(f"/r2/buckets/{contents.bucket}/objects/half"), 404) == 10007
        contents.check(api)
    assert files(edge) == before


def test_a_replaced_or_deleted_value_leaves_no_file(own_edge):
    edge = own_edge("--kv-write-interval", "0")
    with edge.client() as api:
        contents = Contents(api)
        for _ in range(3):
            result(api.put(f"{NAMESPACES}/{contents.kv}/values/large", content=os.urandom(200_000)))
            result(api.put(f"/r2/buckets/{contents.bucket}/objects/o", content=os.urandom(200_000)))
        assert len(files(edge)) == 2
        result(api.delete(f"{NAMESPACES}/{contents.kv}/values/large"))
        result(api.delete(f"/r2/buckets/{contents.bucket}/objects/o"))
        assert files(edge) == set()
        result(api.delete(f"{NAMESPACES}/{contents.kv}"))
        result(api.delete(f"/r2/buckets/{contents.bucket}"))
        result(api.delete(f"/d1/database/{contents.database}"))
    assert [path for path in edge.data.glob("*/*/*") if path.parts[-3] in ("kv", "r2", "d1")] == []


def test_a_reader_of_a_replaced_object_reads_on_to_its_end(edge: EdgeProcess, api: EdgeClient):
    bucket = api.create_r2()
    old = os.urandom(8_000_000)
    result(api.put(f"/r2/buckets/{bucket}/objects/o", content=old))
    with edge.client() as reader, reader.stream("GET", f"/r2/buckets/{bucket}/objects/o") as answer:
        chunks = answer.iter_raw(65536)
        got = [next(chunks)]
        result(api.put(f"/r2/buckets/{bucket}/objects/o", content=b"new"))
        assert b"".join(got + list(chunks)) == old
    assert api.get(f"/r2/buckets/{bucket}/objects/o").content == b"new"


@pytest.mark.acceptance("S4.5")
def test_a_long_query_in_one_database_delays_neither_another_nor_kv(edge: EdgeProcess, api: EdgeClient):
    slow, quick, kv = api.create_d1(), api.create_d1(), api.create_kv()
    result(api.put(f"{NAMESPACES}/{kv}/values/k", content=b"v"))

    def run_slow() -> float:
        with edge.client(timeout_s=60) as client:
            rows = result(client.post(f"/d1/database/{slow}/query", json={"sql": SLOW}))[0]["results"]
            assert rows == [{"n": 20_000_000}]
        return time.monotonic()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run_slow)
        answered, longest = 0, 0.0
        while not running.done():
            started = time.monotonic()
            result(api.post(f"/d1/database/{quick}/query", json={"sql": "SELECT 1"}))
            assert api.get(f"{NAMESPACES}/{kv}/values/k").content == b"v"
            longest = max(longest, time.monotonic() - started)
            answered += 1
        running.result()
    assert answered > 20
    assert longest < 0.5


DEAF = """
  WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM r WHERE i < 100000)
  SELECT length(json_patch((SELECT json_group_object('a'||i, i) FROM r), (SELECT json_group_object('b'||i, i) FROM r)))"""


def test_a_statement_that_cannot_be_interrupted_does_not_keep_the_edge_from_stopping(own_edge):
    edge = own_edge("--d1-timeout", "1")
    with edge.client() as api:
        database = api.create_d1()

    def run_deaf() -> None:
        with edge.client(timeout_s=60) as client, suppress(httpx.TransportError):
            client.post(f"/d1/database/{database}/query", json={"sql": DEAF})

    busy = psutil.Process(edge.process.pid)
    idle_s = busy.cpu_times().user
    deaf = threading.Thread(target=run_deaf)
    deaf.start()
    until(lambda: busy.cpu_times().user - idle_s > 2)
    assert deaf.is_alive()
    assert edge.stop() == 0
    deaf.join()
    assert "could not be interrupted" in edge.log


def test_a_surprise_is_an_envelope_for_the_caller_and_a_traceback_in_the_log(own_edge):
    edge = own_edge()
    (edge.data / "kv").write_text("a file where a directory should be")
    with edge.client() as api:
        namespace = api.create_kv()
        assert error(api.put(f"{NAMESPACES}/{namespace}/values/k", content=b"v"), 500) == 10013
        assert result(api.get(f"{NAMESPACES}/{namespace}"))["id"] == namespace
    assert "Traceback" in edge.log
    assert "api.surprise" in edge.log


@pytest.mark.parametrize(
    ("flags", "accounts", "sentence"),
    [
        ((), "", "EDGE_ACCOUNTS is empty"),
        ((), "nonsense=token-12345678", "account id of 32 hex digits"),
        ((), f"{ACCOUNT_A}=short", "no valid token"),
        ((), f"{ACCOUNT_A}=token-12345678,{ACCOUNT_A}=token-12345678", "repeats"),
        ((), f"{ACCOUNT_A}=token-12345678,{ACCOUNT_A[:-1]}2=token-87654321", "first 8 digits"),
        (("--workerd", "/nowhere/workerd"), f"{ACCOUNT_A}=token-12345678", "no workerd at /nowhere/workerd"),
        (("--api-port", "99999"), f"{ACCOUNT_A}=token-12345678", "--api-port"),
        (("--rate-limit", "-1"), f"{ACCOUNT_A}=token-12345678", "--rate-limit"),
        (("--kv-write-interval", "-1"), f"{ACCOUNT_A}=token-12345678", "--kv-write-interval"),
        (("--d1-timeout", "0"), f"{ACCOUNT_A}=token-12345678", "--d1-timeout"),
        (("--data", "/proc/nowhere"), f"{ACCOUNT_A}=token-12345678", "data directory"),
    ],
)
def test_a_wrong_setting_is_one_clear_sentence(
    tmp_path: Path, flags: tuple[str, ...], accounts: str, sentence: str
):
    command = [sys.executable, "-m", "edge", "--data", str(tmp_path / "data"), *flags]
    environ = {**os.environ, "EDGE_ACCOUNTS": accounts}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode != 0
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("edge: ")
    assert sentence in line
    assert "12345678" not in line


def test_a_port_in_use_and_a_data_directory_in_use_are_one_clear_sentence(edge: EdgeProcess, tmp_path: Path):
    for data, sentence in ((tmp_path / "other", f":{edge.api_port} "), (edge.data, "Another edge")):
        command = [*edge.command(), "--data", str(data)]
        done = subprocess.run(
            command, env=edge.environ, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 1
        assert sentence in done.stderr.strip().splitlines()[-1]
        assert "Traceback" not in done.stderr


def test_no_token_is_in_the_command_line_or_the_log(own_edge):
    edge = own_edge()
    with edge.client() as api:
        api.create_kv(unique("kv"))
        api.get("/nowhere")
    assert edge.process is not None
    command_line = Path(f"/proc/{edge.process.pid}/cmdline").read_bytes().decode()
    for token in edge.tokens.values():
        assert token not in command_line
        assert token not in edge.log
