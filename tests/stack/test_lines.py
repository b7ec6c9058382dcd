"""What is repeated of a process that has ended, and what is not."""

from __future__ import annotations

import signal
import sys

import pytest

from smcp.stack.lines import FRESH_S, last_words
from smcp.stack.processes import Child, Process, spawn
from tests.parts import ROOT
from tests.waiting import wait_for

INFO = '{"event":"routes.loaded","level":"info","at":1.0}'
ERROR = '{"event":"gateway.failed","level":"error","at":1.0,"why":"no disk"}'


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ([], ""),
        ([(100, "Out of memory")], "Out of memory"),
        ([(100, "Out of memory"), (100, ""), (100, INFO)], "Out of memory"),
        ([(100 - FRESH_S - 1, "Out of memory")], ""),
        ([(100, INFO)], ""),
        ([(100, ERROR), (100, INFO)], "ERROR gateway.failed why=no disk"),
        ([(100, '{"level":"fatal","message":"workerd"}')], '{"level":"fatal","message":"workerd"}'),
        ([(100, "{ not JSON")], "{ not JSON"),
        ([(100, "x" * 1000)], "x" * 300),
    ],
)
def test_only_what_was_just_said_of_the_end_is_repeated(said: list[tuple[float, str]], words: str) -> None:
    assert last_words(said, now=100) == words


def talking(line: str) -> Child:
    code = f"import time; print({line!r}, flush=True); time.sleep(60)"
    child = spawn(Process(name="gateway", command=(sys.executable, "-c", code), environ={}, directory=ROOT))
    wait_for(lambda: child.lines, 10, what="the child to speak")
    return child


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (INFO, "gateway was ended by SIGKILL."),
        (ERROR, "gateway was ended by SIGKILL after saying: ERROR gateway.failed why=no disk."),
        ("No space left", "gateway was ended by SIGKILL after saying: No space left."),
    ],
)
def test_a_killed_process_is_told_without_its_chatter(line: str, sentence: str) -> None:
    child = talking(line)
    try:
        child.kill_group()
        assert child.exit_code() == -signal.SIGKILL
        assert child.why_it_ended() == sentence
    finally:
        child.finish()
