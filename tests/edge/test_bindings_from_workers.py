"""KV, R2 and D1 as a Worker's code meets them: the real workerd, its own client code, and nothing between.

`workers/storage.js` does the work and reports what it saw, one scenario per path; here it is judged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.edge.harness import ACCOUNT_B, EdgeClient, EdgeProcess, Neighbours, error, result
from tests.edge.scripts import WORKERS, Stage, multipart

STORAGE = (WORKERS / "storage.js").read_text()


class Scenarios:
    """Deploys the Worker with new stores for every scenario."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def __call__(self, name: str) -> Any:
        return seen(self.stage, self.deploy(), name)

    def deploy(self) -> str:
        return self.stage.deploy(STORAGE, bindings=self.stage.storage())


def seen(stage: Stage, script: str, name: str) -> Any:
    answer = stage.call(script, f"/{name}", timeout_s=60)
    assert answer.status_code == 200, answer.text
    return answer.json()["seen"]


@pytest.fixture(scope="module")
def play(edge: EdgeProcess) -> Iterator[Scenarios]:
    with edge.client() as api:
        yield Scenarios(Stage(edge, api))


@pytest.mark.acceptance("S4.9")
def test_kv_keeps_texts_bytes_streams_and_metadata(play: Scenarios):
    found = play("kv")
    metadata = {"a": [1, "é"]}
    assert found["text"] == "héllo"
    assert found["withMetadata"]["metadata"] == metadata
    assert found["bytes"] == [0, 1, 255]
    assert found["stream"] == "streamed"
    assert found["json"] == {"n": 1}
    assert found["odd"] == "odd"
    assert found["missing"] is found["missingMetadata"]["value"] is found["afterDelete"] is None
    assert found["bulk"] == {"text": "héllo", "missing": None}
    assert found["bulkJson"] == {"json": {"n": 1}}
    assert found["bulkMetadata"] == {"text": {"value": "héllo", "metadata": metadata}, "missing": None}


@pytest.mark.acceptance("S4.9")
def test_kv_refuses_in_the_words_a_worker_would_see(play: Scenarios):
    found = play("kv")
    assert (
        found["shortTtl"]
        == "KV PUT failed: 400 Invalid expiration_ttl of 5. Expiration TTL must be at least 60."
    )
    assert found["bigMetadata"] == "KV PUT failed: 400 Metadata length of 1102 exceeds limit of 1024."
    assert found["notWritten"] is None


@pytest.mark.acceptance("S4.9")
def test_kv_lists_in_pages(play: Scenarios):
    found = play("kvList")
    assert [len(page) for page in found["pages"]] == [10, 10, 5]
    keys = [key for page in found["pages"] for key in page]
    assert keys == [{"name": f"p/{n:02}", "metadata": {"n": n}} for n in range(25)]
    assert found["all"] == 26
    assert found["badCursor"].startswith("KV GET failed: 400")


@pytest.mark.acceptance("S4.9")
def test_kv_takes_values_up_to_25_megabytes(play: Scenarios):
    found = play("kvLarge")
    assert (found["size"], found["same"]) == (20 * 1024 * 1024, True)
    assert found["tooLarge"] == "KV PUT failed: 413 Value length exceeds limit of 26214400."


@pytest.mark.acceptance("S4.10")
def test_r2_keeps_objects_with_all_that_belongs_to_them(play: Scenarios):
    found = play("r2")
    etag = hashlib.md5(b"hello world").hexdigest()
    assert found["put"] == {"key": "dir/o ü.txt", "size": 11, "etag": etag, "version": True}
    assert found["head"] == {
        "http": {
            "contentType": "text/plain",
            "cacheControl": "max-age=1",
            "cacheExpiry": "1970-01-02T00:00:00.000Z",
        },
        "custom": {"owner": "me", "emoji": "🪣"},
        "md5": etag,
        "httpEtag": f'"{etag}"',
        "storageClass": "Standard",
        "recent": True,
    }
    assert found["get"] == "hello world"
    assert found["headers"]["expires"] == "Fri, 02 Jan 1970 00:00:00 GMT"
    assert (found["empty"], found["none"], found["streamed"]) == ("", 0, "from a stream")
    assert found["missing"] == [None, None]
    assert found["left"] == ["dir/o ü.txt"]


@pytest.mark.acceptance("S4.10")
def test_r2_reads_ranges(play: Scenarios):
    found = play("r2")
    assert found["ranges"] == [
        ["world", 6, 5],
        ["hello", 0, 5],
        ["rld", 8, 3],
        ["hello world", 0, 11],
        ["llo", 2, 3],
    ]
    assert found["badRange"] == "get: The requested range is not satisfiable (10039)"


@pytest.mark.acceptance("S4.10")
def test_r2_reads_and_writes_under_conditions(play: Scenarios):
    found = play("r2Conditions")
    read = {
        name: found[name]
        for name in ("matches", "differs", "known", "before", "after", "headers", "wildcard")
    }
    assert read == {
        "matches": "one",
        "differs": "not read",
        "known": "not read",
        "before": "not read",
        "after": "one",
        "headers": "not read",
        "wildcard": "one",
    }
    assert found["createOnly"] is found["replaceOther"] is None
    assert found["still"] == "one"
    assert found["replaced"] is found["created"] is True
    assert found["now"] == "two"


@pytest.mark.acceptance("S4.10")
def test_r2_checks_checksums_and_limits(play: Scenarios):
    found = play("r2Conditions")
    assert found["sha256"]["sha256"] == hashlib.sha256(b"sum").hexdigest()
    for name in ("badDigest", "badMd5"):
        assert found[name].endswith("(10037)")
    assert found["sum"] == "sum"
    assert found["longKey"].endswith("(10020)")
    assert found["bigMetadata"].endswith("(10012)")


@pytest.mark.acceptance("S4.10")
def test_r2_lists_by_page_prefix_delimiter_and_start(play: Scenarios):
    found = play("r2List")
    assert found["pages"] == [["a/1", "a/2"], ["a/b/3", "b/4"], ["c"]]
    assert found["delimited"] == [["c"], ["a/", "b/"]]
    assert found["inside"] == [["a/2", {"key": "a/2"}, None], ["a/b/3", {"key": "a/b/3"}, None]]
    assert found["badLimit"].endswith("(10022)")


@pytest.mark.acceptance("S4.10")
def test_r2_takes_objects_in_parts(play: Scenarios):
    found = play("r2Multipart")
    size = 5 * 1024 * 1024
    parts = [b"\1" * size, b"\2" * size, b"tail"]
    md5s = b"".join(hashlib.md5(part).digest() for part in parts)
    assert found["unseen"] is None
    assert found["size"] == 2 * size + 4
    assert found["etag"] == f"{hashlib.md5(md5s).hexdigest()}-3"
    assert found["custom"] == {"kind": "parts"}
    assert found["middle"] == [1, 1, 2, 2]
    assert found["tail"] == "tail"
    assert found["wrongEtag"].endswith("(10025)")
    assert found["tooSmall"].endswith("(10011)")
    for name in ("again", "aborted"):
        assert found[name].endswith("(10024)")


@pytest.mark.acceptance("S4.11")
def test_d1_runs_statements_batches_and_scripts(play: Scenarios):
    found = play("d1")
    assert found["exec"] == 2
    assert found["run"] == {"success": True, "changes": 1, "id": 1, "changed": True}
    assert found["batch"] == [[], [], [{"n": 3}]]
    assert found["all"][0] == {"id": 1, "name": "a", "raw": [1, 255]}
    assert (found["first"], found["column"], found["none"]) == ({"name": "a"}, "b", None)
    assert found["raw"] == [["id", "name"], [1, "a"], [2, "b"], [3, None]]
    assert found["session"] == 1
    assert found["bookmark"] is True


@pytest.mark.acceptance("S4.11")
def test_d1_fails_in_the_words_a_worker_would_see_and_undoes_the_batch(play: Scenarios):
    found = play("d1")
    unique = "UNIQUE constraint failed: u.a: SQLITE_CONSTRAINT (extended: SQLITE_CONSTRAINT_UNIQUE)"
    assert found["broken"] == "D1_ERROR: no such table: nowhere: SQLITE_ERROR"
    assert found["lost"] == 0
    assert found["syntax"] == 'D1_ERROR: near "SELEC": syntax error: SQLITE_ERROR'
    assert found["unique"] == f"D1_ERROR: {unique}"
    assert found["execError"] == f"D1_EXEC_ERROR: Error in line 2: INSERT INTO u VALUES(1): {unique}"
    assert found["execDone"] == [1, 2]
    assert found["attach"] == "D1_ERROR: not authorized: SQLITE_AUTH"
    assert found["unbound"] == "D1_ERROR: Wrong number of parameter bindings for SQL query."


def test_a_large_result_for_one_worker_takes_little_memory_and_holds_up_nobody(own_edge):
    edge = own_edge("--rate-limit", "0")
    with edge.client() as api:
        play, neighbours = Scenarios(Stage(edge, api)), Neighbours(edge)
        found = neighbours.while_running(lambda: play("d1Large"))
    assert found["all"] == [100_000, {"i": 100_000, "a": ""}]
    assert found["raw"] == [100_000, [100_000, ""]]
    assert "LIMIT" in found["tooLarge"]
    assert "at most" in found["tooMany"]
    assert neighbours.grown_mb < 100
    assert neighbours.longest_s < neighbours.took_s / 3


@pytest.mark.acceptance("S4.5")
def test_an_endless_query_of_one_worker_ends_at_the_limit_and_delays_no_other(own_edge):
    edge = own_edge("--d1-timeout", "2")
    with edge.client() as api, ThreadPoolExecutor(1) as pool:
        stage = Stage(edge, api)
        scenarios = Scenarios(stage)
        slow, quick = scenarios.deploy(), scenarios.deploy()
        running = pool.submit(seen, stage, slow, "d1Slow")
        answered = 0
        while not running.done():
            assert len(seen(stage, quick, "r2List")["pages"]) == 3
            answered += 1
        assert "exceeded timeout" in running.result()
        assert answered > 3


def test_what_a_worker_writes_is_what_the_api_reads_and_the_other_way_round(play: Scenarios):
    stage = play.stage
    kv, bucket, database = bindings = stage.storage()
    script = stage.deploy(STORAGE, bindings=bindings)
    seen(stage, script, "kv")
    seen(stage, script, "r2")
    seen(stage, script, "d1")
    values = f"/storage/kv/namespaces/{kv['namespace_id']}/values"
    assert stage.api.get(f"{values}/text").text == "héllo"
    objects = f"/r2/buckets/{bucket['bucket_name']}/objects"
    assert stage.api.get(f"{objects}/dir%2Fo%20%C3%BC.txt").text == "hello world"
    query = f"/d1/database/{database['id']}/query"
    names = result(stage.api.post(query, json={"sql": "SELECT name FROM t WHERE id=1"}))[0]["results"]
    assert names == [{"name": "a"}]


@pytest.mark.acceptance("S4.5", "S4.31", "S4.32")
def test_a_worker_cannot_be_bound_to_what_another_account_owns(
    edge: EdgeProcess, play: Scenarios, other_api: EdgeClient
):
    theirs = Stage(edge, other_api)
    assert other_api.account == ACCOUNT_B
    for binding in theirs.storage():
        answer = play.stage.api.put(
            f"{play.stage.path}/thief", files=multipart(STORAGE, {"bindings": [binding]})
        )
        error(answer, 400)
