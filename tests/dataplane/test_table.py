"""The table of facts: one look however many there are, and time never runs backwards."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hosting.dataplane.contract import REVOCATIONS_KEPT, AnyFact, Credential, Revocation, Route, Suspension
from hosting.dataplane.facts.routes import Table
from hosting.dataplane.facts.snapshot import load_snapshot, save_snapshot


def route(number: int, version: int = 1, *, is_gone: bool = False, server: str = "") -> Route:
    return Route(
        tenant=f"t{number % 100}",
        version=version,
        is_gone=is_gone,
        environment=f"e{number}",
        tenant_slug=f"tenant{number % 100}",
        server_slug=server or f"server{number}",
        environment_slug="production",
    )


class CountingKey(str):
    """Counts how often it is compared: a scan would compare it with everything."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        CountingKey.compared += 1
        return str.__eq__(self, other) if isinstance(other, str) else NotImplemented

    __hash__ = str.__hash__


@pytest.mark.parametrize("count", [1, 10_000])
def test_finding_a_route_is_one_look_however_many_there_are(count: int) -> None:
    table = Table()
    for number in range(count):
        table.apply(route(number))
    assert table.counts["routes"] == count
    CountingKey.compared = 0
    found = table.route_at(CountingKey("/tenant0/server0/mcp"))
    assert found is not None
    assert found.environment == "e0"
    assert CountingKey.compared <= 3
    CountingKey.compared = 0
    assert table.route_at(CountingKey("/tenant0/nobody/mcp")) is None
    assert CountingKey.compared <= 3


def test_a_change_touches_only_its_own_addresses() -> None:
    table = Table()
    for number in range(1000):
        table.apply(route(number))
    table.apply(route(5, 2, server="renamed"))
    assert table.route_at("/tenant5/server5/mcp") is None
    assert table.route_at("/tenant5/renamed/mcp") is not None
    assert table.route_at("renamed--tenant5") is not None
    table.apply(route(5, 3, is_gone=True))
    assert table.route_at("/tenant5/renamed/mcp") is None
    assert table.counts["routes"] == 999


FACTS = st.lists(
    st.one_of(
        st.builds(route, st.integers(0, 2), st.integers(1, 5), is_gone=st.booleans()),
        st.builds(
            Credential, tenant=st.just("t"), version=st.integers(1, 5), is_gone=st.booleans(),
            id=st.sampled_from("ab"), digest=st.sampled_from(["d1", "d2"]),
        ),
        st.builds(
            Suspension, tenant=st.sampled_from("tu"), version=st.integers(1, 5), is_gone=st.booleans(),
            server_slug=st.sampled_from(["", "s"]), reason=st.just("r"),
        ),
        st.builds(
            Revocation, tenant=st.just("t"), version=st.integers(1, 5), is_gone=st.booleans(),
            session=st.sampled_from("xy"), until=st.just(10.0),
        ),
    ),
    max_size=20,
)  # fmt: skip


@given(facts=FACTS, again=st.randoms())
def test_the_order_and_the_repetition_of_changes_do_not_matter(facts: list[AnyFact], again: object) -> None:
    by_version: dict[tuple[str, int], AnyFact] = {}
    for fact in facts:
        by_version.setdefault((fact.key, fact.version), fact)  # one version is one content
    unique = list(by_version.values())
    shuffled = unique + unique
    again.shuffle(shuffled)  # type: ignore[attr-defined]
    straight, mixed = Table(), Table()
    for fact in sorted(unique, key=lambda fact: fact.version):
        straight.apply(fact)
    for fact in shuffled:
        mixed.apply(fact)
    assert sorted(map(repr, straight.facts())) == sorted(map(repr, mixed.facts()))
    for fact in straight.facts():
        assert not fact.is_gone


def test_a_fact_that_is_gone_does_not_come_back() -> None:
    table = Table()
    table.note_gone({route(1).key: 5})
    assert not table.apply(route(1, 4))
    assert table.apply(route(1, 5))  # it came back while the hash was read
    assert not table.apply(route(1, 5))


def test_one_principal_fills_nobodys_memory_with_ended_sessions() -> None:
    table = Table()

    def end(number: int, principal: str) -> None:
        table.apply(
            Revocation(tenant="t", version=1, session=f"{principal}{number}", until=1e9, principal=principal)
        )

    for number in range(3):
        end(number, "other")
    for number in range(REVOCATIONS_KEPT + 50):
        end(number, "busy")
    assert table.counts["revocations"] == REVOCATIONS_KEPT + 3
    assert len(table.facts()) == REVOCATIONS_KEPT + 3
    assert [table.is_revoked("t", f"busy{number}") for number in (49, 50, REVOCATIONS_KEPT + 49)] == [
        False,
        True,
        True,
    ]
    assert all(table.is_revoked("t", f"other{number}") for number in range(3))
    assert table.take_surplus() == [f"revocation/t/busy{number}" for number in range(50)]
    assert table.take_surplus() == []


def test_revocations_are_forgotten_when_their_ids_have_expired() -> None:
    table = Table()
    for number in range(10):
        table.apply(Revocation(tenant="t", version=1, session=str(number), until=float(number)))
    assert len(list(table.drop_expired(5.0))) == 5
    assert table.counts["revocations"] == 5
    assert not table.is_revoked("t", "1")
    assert table.is_revoked("t", "7")


@given(facts=FACTS)
def test_a_snapshot_brings_back_what_was_saved(
    tmp_path_factory: pytest.TempPathFactory, facts: list[AnyFact]
) -> None:
    table = Table(epoch="e", cursor="5-0")
    for fact in facts:
        table.apply(fact)
    directory = tmp_path_factory.mktemp("snapshot")
    save_snapshot(directory, installation="i", epoch="e", cursor="5-0", facts=table.facts(), now=7.0)
    again, saved_at = load_snapshot(directory, installation="i")
    assert (again.epoch, again.cursor, saved_at) == ("e", "5-0", 7.0)
    assert sorted(map(repr, again.facts())) == sorted(map(repr, table.facts()))
    assert [path.name for path in Path(directory).iterdir()] == ["routes.snapshot"]
