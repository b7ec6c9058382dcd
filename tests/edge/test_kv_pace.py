"""What KV remembers of writes is bounded, and forgotten in time."""

from __future__ import annotations

import pytest

from edge.storage import kv_pace
from edge.storage.kv_pace import Pace
from edge.storage.kv_rules import TooFast


def test_writes_are_forgotten_after_the_interval_and_the_oldest_when_there_are_too_many():
    now = 100.0
    pace = Pace(1.0, lambda: now)
    for number in range(kv_pace.MOST + 1):
        pace.take("account", "namespace", b"%d" % number)
    assert len(pace._written) == kv_pace.MOST
    pace.take("account", "namespace", b"0")
    with pytest.raises(TooFast):
        pace.take("account", "namespace", b"%d" % kv_pace.MOST)
    now = 101.0
    pace.take("account", "namespace", b"%d" % kv_pace.MOST)
    assert len(pace._written) == 1


def test_an_interval_of_nothing_lets_everything_through():
    pace = Pace(0)
    for _ in range(3):
        pace.take("account", "namespace", b"k")
