"""The janitor Worker on the edge, called through the dispatcher, with a bucket that a tenant's Worker filled."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from hosting.cloudflare.errors import CloudflareError

from .conftest import Account, read_worker

OBJECTS = 2500

# Puts the objects n to m: /?from=n&to=m
FILLER = """
export default {
  async fetch(request, env) {
    const query = new URL(request.url).searchParams;
    const numbers = Array.from({ length: query.get("to") - query.get("from") }, (_, i) => Number(query.get("from")) + i);
    await Promise.all(numbers.map((n) => env.BUCKET.put(`folder/${n} ä`, `object ${n}`)));
    return new Response(null, { status: 204 });
  },
};
"""


class Bucket:
    """A bucket with a filler and a janitor bound to it."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.name = f"bucket-{secrets.token_hex(6)}"
        account.cloudflare.ensure_r2_bucket(self.name)
        bindings = [{"type": "r2_bucket", "name": "BUCKET", "bucket_name": self.name}]
        self.filler = account.put(FILLER, bindings=bindings)
        self.janitor = account.put(read_worker("janitor"), bindings=bindings)

    def fill(self, count: int) -> None:
        for start in range(0, count, 50):
            query = {"from": str(start), "to": str(min(start + 50, count))}
            answer = httpx.get(
                self.account.url, params=query, headers=self.account.headers(self.filler), timeout=30
            )
            assert answer.status_code == 204, answer.text

    def ask(self, method: str = "POST", path: str = "/") -> httpx.Response:
        url, headers = f"{self.account.url}{path}", self.account.headers(self.janitor)
        return httpx.request(method, url, headers=headers, timeout=30)


@pytest.fixture
def bucket(account: Account) -> Bucket:
    return Bucket(account)


@pytest.mark.acceptance("S4.10")
def test_a_bucket_is_emptied_a_thousand_objects_at_a_time_and_can_then_be_deleted(bucket: Bucket) -> None:
    bucket.fill(OBJECTS)
    with pytest.raises(CloudflareError):
        bucket.account.cloudflare.delete_r2_bucket(bucket.name)

    calls = [bucket.ask().json() for _ in range(3)]
    assert calls == [
        {"deleted": 1000, "done": False},
        {"deleted": 1000, "done": False},
        {"deleted": 500, "done": True},
    ]
    bucket.account.cloudflare.delete_r2_bucket(bucket.name)
    assert bucket.name not in {found.name for found in bucket.account.cloudflare.list_r2_buckets()}


def test_objects_that_arrive_between_calls_are_deleted_too(bucket: Bucket) -> None:
    bucket.fill(1001)
    assert bucket.ask().json() == {"deleted": 1000, "done": False}
    bucket.fill(3)
    assert bucket.ask().json()["done"]
    assert bucket.ask().json() == {"deleted": 0, "done": True}


def test_an_empty_bucket_is_done_at_once_and_as_often_as_one_asks(bucket: Bucket) -> None:
    assert [bucket.ask().json() for _ in range(2)] == [{"deleted": 0, "done": True}] * 2


def test_calls_at_the_same_time_do_no_harm(bucket: Bucket) -> None:
    bucket.fill(1500)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: bucket.ask(), range(4)))
    assert {answer.status_code for answer in answers} == {200}
    # All of them may have found the same thousand; whoever repeats until `done` still ends with an empty bucket.
    while not bucket.ask().json()["done"]:
        pass
    assert bucket.ask().json() == {"deleted": 0, "done": True}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 405), ("DELETE", "/", 405), ("PUT", "/", 405), ("POST", "/all", 404)],
)
def test_anything_but_post_is_refused_and_deletes_nothing(
    bucket: Bucket, method: str, path: str, status: int
) -> None:
    bucket.fill(2)
    answer = bucket.ask(method, path)
    assert answer.status_code == status
    assert answer.json()["error"]
    assert status != 405 or answer.headers["allow"] == "POST"
    assert bucket.ask().json() == {"deleted": 2, "done": True}
