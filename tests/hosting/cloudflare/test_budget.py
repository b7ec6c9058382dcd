"""The shared budget against a real Redis, with several processes spending it at once."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from hosting.cloudflare.budget import Budget
from hosting.cloudflare.errors import OutOfBudget, RateLimited
from tests.edge.harness import ACCOUNT_A, EdgeProcess

ROOT = Path(__file__).resolve().parents[3]

#: Spends permits as fast as it gets them for a while, each "request" taking a moment, and tells when each began and ended.
SPENDER = """
import random, sys, time, redis
from hosting.cloudflare.budget import Budget
from hosting.cloudflare.errors import OutOfBudget
url, account, requests, window_s, for_s = sys.argv[1:]
client = redis.Redis.from_url(url)
budget = Budget(client, installation="t", account=account, requests=int(requests), window_s=float(window_s), longest_s=30)
until = time.monotonic() + float(for_s)
while time.monotonic() < until:
    try:
        with budget.permit():
            begun = time.time()
            time.sleep(random.uniform(0, 0.02))
            print(begun, time.time(), flush=False)
    except OutOfBudget as exc:
        time.sleep(min(exc.retry_after_s, 0.05))
"""


def budget(client: redis.Redis, *, requests: int = 10, window_s: float = 300) -> Budget:
    return Budget(
        client, installation="t", account=secrets.token_hex(8), requests=requests, window_s=window_s
    )


@pytest.fixture
def client(redis_url: str) -> redis.Redis:
    return redis.Redis.from_url(redis_url)


def test_a_sharer_has_its_share_and_leaves_the_rest_to_the_others(client: redis.Redis) -> None:
    shared = budget(client, requests=40)
    for _ in range(4):
        with shared.permit(sharer="busy"):
            pass
    with pytest.raises(OutOfBudget) as refused, shared.permit(sharer="busy"):
        pass
    assert 250 < (refused.value.retry_after_s or 0) <= 300
    for _ in range(4):
        with shared.permit(sharer="other"):
            pass
    for _ in range(40 - 2 - 8):
        with shared.permit():
            pass
    with pytest.raises(OutOfBudget), shared.permit():
        pass
    with shared.permit(is_priority=True):
        pass


def test_four_processes_spend_nearly_all_of_the_budget_and_never_more(redis_url: str) -> None:
    requests, window_s, for_s = 200, 2.0, 7.0
    account = secrets.token_hex(8)
    command = [sys.executable, "-c", SPENDER, redis_url, account, str(requests), str(window_s), str(for_s)]
    spenders = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    spans = sorted(
        (float(begun), float(ended))
        for spender in spenders
        for begun, ended in (line.split() for line in spender.communicate(timeout=60)[0].splitlines())
    )
    assert all(spender.returncode == 0 for spender in spenders)
    # Wherever within its span the vendor counts a request: no window of his holds more than he allows.
    for position in range(len(spans) - requests):
        first_ended, last_begun = spans[position][1], spans[position + requests][0]
        assert last_begun - first_ended >= window_s - 0.01
    full_windows = [
        sum(1 for begun, _ in spans if start <= begun < start + window_s)
        for start in (spans[0][0], spans[0][0] + window_s)
    ]
    assert min(full_windows) >= requests * 0.95


def test_the_last_permits_are_kept_for_what_must_not_wait(client: redis.Redis) -> None:
    shared = budget(client, requests=100)
    for _ in range(97):
        with shared.permit():
            pass
    with pytest.raises(OutOfBudget) as refused, shared.permit():
        pass
    assert refused.value.retry_after_s is not None
    assert 299 < refused.value.retry_after_s <= 301
    for _ in range(3):
        with shared.permit(is_priority=True):
            pass
    with pytest.raises(OutOfBudget), shared.permit(is_priority=True):
        pass


def test_a_429_makes_everybody_wait_as_long_as_the_vendor_says(client: redis.Redis) -> None:
    shared = budget(client)
    with pytest.raises(RateLimited), shared.permit():
        raise RateLimited("slow down", code=971, retry_after_s=120)
    for is_priority in (False, True):
        with pytest.raises(OutOfBudget) as refused, shared.permit(is_priority=is_priority):
            pass
        assert refused.value.retry_after_s == pytest.approx(120, abs=2)


def test_a_permit_comes_back_one_window_after_its_request_ended(client: redis.Redis) -> None:
    shared = budget(client, requests=1, window_s=0.4)
    with shared.permit():
        begun = time.monotonic()
        while time.monotonic() < begun + 0.3:
            pass  # the request is under way
    ended = time.monotonic()
    with pytest.raises(OutOfBudget) as refused, shared.permit():
        pass
    assert refused.value.retry_after_s == pytest.approx(0.4 - (time.monotonic() - ended), abs=0.05)


def test_without_redis_nobody_calls() -> None:
    nowhere = redis.Redis(host="127.0.0.1", port=1)
    with pytest.raises(OutOfBudget) as refused, budget(nowhere).permit():
        pass
    assert "Redis is away" in str(refused.value)


#: Calls the edge as fast as the budget lets it, and tells how each call ended.
CALLER = """
import sys, time, os, redis
from hosting.cloudflare.budget import Budget
from hosting.cloudflare.client import HttpCloudflare
from hosting.cloudflare.errors import CloudflareError, OutOfBudget
redis_url, base_url, account, requests, window_s, for_s = sys.argv[1:]
budget = Budget(redis.Redis.from_url(redis_url), installation="t", account=account, requests=int(requests), window_s=float(window_s))
client = HttpCloudflare(base_url=base_url, account_id=account, token=os.environ["TOKEN"], dispatch_namespace="x", permit=budget.permit)
until = time.monotonic() + float(for_s)
while time.monotonic() < until:
    try:
        client.verify_token()
        print("answered")
    except OutOfBudget as exc:
        time.sleep(min(exc.retry_after_s, 0.02))
    except CloudflareError as exc:
        print(type(exc).__name__)
"""


@pytest.mark.timeout(60)
def test_four_processes_use_what_the_vendor_allows_and_never_see_a_429(
    redis_url: str, tmp_path: Path
) -> None:
    requests, window_s, for_s = 200, 2.0, 7.0
    edge = EdgeProcess(tmp_path / "edge", "--rate-limit", str(requests), "--rate-window", str(window_s))
    edge.start()
    try:
        command = [
            *(sys.executable, "-c", CALLER, redis_url, f"{edge.url}/client/v4", ACCOUNT_A),
            *(str(requests), str(window_s), str(for_s)),
        ]
        environ = {**os.environ, "TOKEN": edge.tokens[ACCOUNT_A]}
        callers = [
            subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True)
            for _ in range(4)
        ]
        said = [line for caller in callers for line in caller.communicate(timeout=50)[0].splitlines()]
    finally:
        edge.stop()
    assert all(caller.returncode == 0 for caller in callers)
    assert set(said) == {"answered"}
    # They did not start at the same instant, so the first window is not whole; the three after it are.
    assert len(said) >= requests * 0.95 * (for_s / window_s - 1)
