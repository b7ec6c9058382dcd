"""R2 over the API, as clients and wrangler use it."""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Iterator
from urllib.parse import quote

import psutil
import pytest

from tests.edge.harness import EdgeClient, EdgeProcess, error, result, unique

pytestmark = pytest.mark.acceptance("S4.10")


@pytest.fixture
def bucket(api: EdgeClient) -> str:
    return f"/r2/buckets/{api.create_r2()}"


def test_a_bucket_is_created_found_and_deleted(api: EdgeClient):
    name = unique("bucket")
    created = result(api.post("/r2/buckets", json={"name": name, "locationHint": "apac"}))
    assert created["location"] == "APAC"
    assert created["storage_class"] == "Standard"
    assert result(api.get(f"/r2/buckets/{name}")) == created
    assert error(api.post("/r2/buckets", json={"name": name}), 409) == 10004
    assert result(api.delete(f"/r2/buckets/{name}")) == {}
    assert error(api.get(f"/r2/buckets/{name}"), 404) == 10006
    assert error(api.delete(f"/r2/buckets/{name}"), 404) == 10006
    result(api.post("/r2/buckets", json={"name": name}))


@pytest.mark.parametrize(
    "name", [None, "", "ab", "a" * 64, "Upper", "under_score", "-a-", "a.b", "a/b", "..", 5]
)
def test_a_bucket_name_that_cannot_be_is_refused(api: EdgeClient, name):
    assert error(api.post("/r2/buckets", json={"name": name}), 400) == 10005


def test_a_location_or_storage_class_that_does_not_exist_is_refused(api: EdgeClient):
    for extra in ({"locationHint": "moon"}, {"storageClass": "Cheap"}):
        assert error(api.post("/r2/buckets", json={"name": unique("bucket"), **extra}), 400) == 10029


def test_buckets_are_listed_with_a_cursor(api: EdgeClient):
    marker = unique("list")
    names = sorted(api.create_r2(f"{marker}-{number}") for number in range(5))
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        answer = api.get("/r2/buckets", params={"name_contains": marker, "per_page": "2", "cursor": cursor})
        found += [bucket["name"] for bucket in result(answer)["buckets"]]
        cursor = answer.json()["result_info"].get("cursor")
    assert found == names


@pytest.mark.parametrize("key", ["o.bin", "a/b c.txt", "ü/%2F?&#", "../x", "🪣"])
def test_an_object_is_put_read_and_deleted(api: EdgeClient, bucket: str, key: str):
    value = os.urandom(3000)
    url = f"{bucket}/objects/{quote(key, safe='')}"
    headers = {"content-type": "text/x-test", "cache-control": "max-age=5"}
    put = result(api.put(url, content=value, headers=headers))
    assert put["key"] == key
    assert put["size"] == len(value)
    assert put["etag"] == hashlib.md5(value).hexdigest()
    answer = api.get(url)
    assert answer.content == value
    assert answer.headers["content-type"] == "text/x-test"
    assert answer.headers["cache-control"] == "max-age=5"
    assert answer.headers["etag"] == f'"{put["etag"]}"'
    assert result(api.delete(url)) == {"key": key}
    assert error(api.get(url), 404) == 10007


def test_part_of_an_object_can_be_read(api: EdgeClient, bucket: str):
    value = bytes(range(256))
    url = f"{bucket}/objects/bytes"
    result(api.put(url, content=value))
    for header, expected in (
        ("0-9", value[:10]),
        ("250-", value[250:]),
        ("-6", value[-6:]),
        ("250-999", value[250:]),
    ):
        answer = api.get(url, headers={"range": f"bytes={header}"})
        assert (answer.status_code, answer.content) == (206, expected)
        assert answer.headers["content-range"].endswith("/256")
    assert error(api.get(url, headers={"range": "bytes=256-"}), 416) == 10039
    assert api.get(url, headers={"range": "bytes=5-1"}).content == value


def test_an_object_that_is_compressed_stays_as_it_was_sent(api: EdgeClient, bucket: str):
    packed = gzip.compress(b"x" * 1000)
    stored = result(api.put(f"{bucket}/objects/z", content=packed, headers={"content-encoding": "gzip"}))
    assert stored["size"] == len(packed)
    assert stored["http_metadata"]["contentEncoding"] == "gzip"
    assert api.get(f"{bucket}/objects/z").content == b"x" * 1000  # httpx unpacks what says it is packed


def test_objects_are_listed_by_prefix_delimiter_and_cursor(api: EdgeClient, bucket: str):
    keys = ["a/1", "a/2", "a/b/3", "b/4", "c", "d"]
    for key in keys:
        result(api.put(f"{bucket}/objects/{key}", content=b"v"))
    answer = api.get(f"{bucket}/objects", params={"delimiter": "/"})
    assert [item["key"] for item in result(answer)] == ["c", "d"]
    assert answer.json()["result_info"]["delimited"] == ["a/", "b/"]
    found, delimited, cursor, pages = [], [], "", 0
    while True:
        answer = api.get(f"{bucket}/objects", params={"delimiter": "/", "per_page": 1, "cursor": cursor})
        found += [item["key"] for item in result(answer)]
        info = answer.json()["result_info"]
        delimited += info["delimited"]
        cursor, pages = info["cursor"], pages + 1
        if not info["is_truncated"]:
            break
    assert (found, delimited, pages) == (["c", "d"], ["a/", "b/"], 4)
    inside = api.get(f"{bucket}/objects", params={"prefix": "a/", "start_after": "a/1"})
    assert [item["key"] for item in result(inside)] == ["a/2", "a/b/3"]


def test_many_objects_are_deleted_at_once(api: EdgeClient, bucket: str):
    for number in range(5):
        result(api.put(f"{bucket}/objects/{number}", content=b"v"))
    result(
        api.request(
            "DELETE", f"{bucket}/objects", json=[str(number) for number in range(5)] + ["never-there"]
        )
    )
    assert result(api.get(f"{bucket}/objects")) == []
    too_many = [str(number) for number in range(1001)]
    assert error(api.request("DELETE", f"{bucket}/objects", json=too_many), 400) == 10029


def test_a_bucket_with_objects_is_not_deleted(api: EdgeClient, bucket: str):
    result(api.put(f"{bucket}/objects/last", content=b"v"))
    assert error(api.delete(bucket), 409) == 10008
    result(api.put(f"{bucket}/objects/last", content=b"w"))
    result(api.delete(f"{bucket}/objects/last"))
    result(api.delete(bucket))
    assert error(api.put(f"{bucket}/objects/late", content=b"v"), 404) == 10006


def test_a_key_longer_than_1024_bytes_is_refused(api: EdgeClient, bucket: str):
    result(api.put(f"{bucket}/objects/{'k' * 1024}", content=b""))
    assert error(api.put(f"{bucket}/objects/{'k' * 1025}", content=b""), 400) == 10020


def test_an_upload_that_breaks_off_leaves_nothing(edge: EdgeProcess, api: EdgeClient, bucket: str):
    def broken() -> Iterator[bytes]:
        yield b"x" * 2_000_000
        raise ConnectionError("the client is gone")

    with pytest.raises(ConnectionError):
        api.put(f"{bucket}/objects/half", content=broken())
    assert error(api.get(f"{bucket}/objects/half"), 404) == 10007
    result(api.delete(bucket))


def test_an_object_of_50_megabytes_does_not_grow_the_memory_by_its_size(
    edge: EdgeProcess, api: EdgeClient, bucket: str
):
    assert edge.process is not None
    process = psutil.Process(edge.process.pid)
    block, blocks = os.urandom(1024 * 1024), 50
    result(api.put(f"{bucket}/objects/warm", content=block))
    assert api.get(f"{bucket}/objects/warm").content == block
    before = process.memory_info().rss
    stored = result(api.put(f"{bucket}/objects/big", content=(block for _ in range(blocks))))
    assert stored["size"] == blocks * len(block)
    digest, highest = hashlib.md5(), process.memory_info().rss
    with api.stream("GET", f"{bucket}/objects/big") as answer:
        for chunk in answer.iter_raw(1024 * 1024):
            digest.update(chunk)
            highest = max(highest, process.memory_info().rss)
    assert digest.hexdigest() == stored["etag"]
    assert highest - before < 20 * 1024 * 1024


@pytest.mark.acceptance("S4.5", "S4.32")
def test_another_account_finds_no_bucket_of_ours_and_may_use_its_name(
    api: EdgeClient, other_api: EdgeClient, bucket: str
):
    result(api.put(f"{bucket}/objects/o", content=b"ours"))
    for answer in (
        other_api.get(bucket),
        other_api.get(f"{bucket}/objects"),
        other_api.get(f"{bucket}/objects/o"),
        other_api.put(f"{bucket}/objects/o", content=b"theirs"),
        other_api.delete(f"{bucket}/objects/o"),
        other_api.delete(bucket),
    ):
        assert error(answer, 404) == 10006
    other_api.create_r2(bucket.rpartition("/")[2])
    result(other_api.put(f"{bucket}/objects/o", content=b"theirs"))
    assert api.get(f"{bucket}/objects/o").content == b"ours"
