"""The lock in front of `rows_query`, by itself in workerd: what is a plain SELECT and what is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from hosting.catalog import catalog

from .workerd import Service, running

SOURCE = Path(catalog.__file__).parent / "starter/src/select.js"
ASKING = """
import { refusalOf } from "./select.js";
export default { fetch: async (request) => new Response(refusalOf(await request.text()) ?? "") };
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    modules = {"asking.js": ASKING, "select.js": SOURCE.read_text()}
    with running({"select": Service(modules=modules)}, tmp_path_factory.mktemp("select")) as at:
        yield at


def refusal(url: str, sql: str) -> str:
    return httpx.post(url, content=sql.encode()).text


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "  select name\nfrom planets where moons > ? ;  ",
        "SELECT ';', '--', '/*', 'it''s', \"name\", [name], `name` FROM planets",
        "SELECT 'DELETE', 'pragma_x', \"update\" FROM planets",
        "WITH big AS (SELECT * FROM planets WHERE moons > 20) SELECT count(*) FROM big",
        "SELECT replace(name, 'a', 'b'), deleted, updated_at FROM planets",
        "SELECT (SELECT max(moons) FROM planets), 1 - -1, 4 / 2, x'00', 1e5, :name, $other, @third",
        "SELECT größe FROM planets",
    ],
)
def test_a_plain_select_may_run(url: str, sql: str) -> None:
    assert refusal(url, sql) == ""


@pytest.mark.acceptance("S2.33")
@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("", "begin with SELECT"),
        (";", "begin with SELECT"),
        ("INSERT INTO planets VALUES (9)", "begin with SELECT"),
        ("DELETE FROM planets", "begin with SELECT"),
        ("DROP TABLE planets", "begin with SELECT"),
        ("PRAGMA user_version = 1", "begin with SELECT"),
        ("ATTACH 'x' AS y", "begin with SELECT"),
        ("VACUUM INTO 'x'", "begin with SELECT"),
        ("EXPLAIN SELECT 1", "begin with SELECT"),
        ("REPLACE INTO planets VALUES (1)", "begin with SELECT"),
        ("\ufeffDELETE FROM planets", "begin with SELECT"),
        ("'SELECT'; DELETE FROM planets", "begin with SELECT"),
        ("/* SELECT */ DELETE FROM planets", "begin with SELECT"),
        ("-- SELECT\nDELETE FROM planets", "begin with SELECT"),
        ("SELECT 1; DELETE FROM planets", "one statement"),
        ("SELECT 1;;", "one statement"),
        ("SELECT ''';' ; DROP TABLE planets", "one statement"),
        ("SELECT 1 -- and more", "comments"),
        ("SELECT /* ; */ 1", "comments"),
        ("SELECT '\\'; DELETE FROM planets; --'", "one statement"),
        ("WITH gone AS (SELECT 1) DELETE FROM planets", "DELETE"),
        ("WITH gone AS (SELECT 1) INSERT INTO planets SELECT 1", "INSERT"),
        ("WITH gone AS (SELECT 1) UPDATE planets SET moons = 0", "UPDATE"),
        ("WITH gone AS (VALUES (1)) VALUES (1)", "lead to a SELECT"),
        ("SELECT * FROM pragma_table_info('planets')", "pragmas"),
        ("SELECT * FROM \"Pragma_table_info\"('planets')", "pragmas"),
        ("SELECT * FROM [pragma_database_list]", "pragmas"),
        ("SELECT 1) ; DELETE FROM planets", "parenthesis"),
        ("SELECT 1) UNION SELECT * FROM (SELECT 2", "parenthesis"),
        ("SELECT (1", "parenthesis"),
        ("SELECT 'open", "quote"),
        ('SELECT "open', "quote"),
        ("SELECT 1\0; DELETE FROM planets", "zero"),
        ("SELECT 1\0", "zero"),
    ],
)
def test_whatever_could_do_more_than_select_is_refused(url: str, sql: str, why: str) -> None:
    assert why in refusal(url, sql)
