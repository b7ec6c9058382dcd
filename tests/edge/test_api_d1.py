"""D1 over the API, as clients and wrangler use it, and what a database may not do."""

from __future__ import annotations

import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.edge.harness import EdgeClient, EdgeProcess, Neighbours, error, peak_mb, result, unique

pytestmark = pytest.mark.acceptance("S4.11")
ENDLESS = "WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM r) SELECT count(*) FROM r"

MILLION = "WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM r WHERE i<1000000) SELECT i FROM r"


class Database:
    def __init__(self, api: EdgeClient) -> None:
        self.api = api
        self.url = f"/d1/database/{api.create_d1()}"

    def query(self, sql: str, *params):
        return result(self.api.post(f"{self.url}/query", json={"sql": sql, "params": list(params)}))

    def rows(self, sql: str, *params):
        return self.query(sql, *params)[-1]["results"]

    def refused(self, sql: str, *params) -> str:
        answer = self.api.post(f"{self.url}/query", json={"sql": sql, "params": list(params)})
        assert error(answer, 400) == 7500
        return str(answer.json()["errors"][0]["message"])


@pytest.fixture
def database(api: EdgeClient) -> Database:
    return Database(api)


def test_a_database_is_created_found_and_deleted(api: EdgeClient):
    name = unique("db")
    created = result(api.post("/d1/database", json={"name": name, "primary_location_hint": "weur"}))
    assert uuid.UUID(created["uuid"])
    assert created["running_in_region"] == "WEUR"
    url = f"/d1/database/{created['uuid']}"
    assert result(api.get(url)) == created
    assert result(api.get(f"/d1/database/{name}")) == created
    assert error(api.post("/d1/database", json={"name": name}), 400) == 7502
    assert result(api.delete(url)) is None
    assert error(api.get(url), 404) == 7404
    assert error(api.post(f"{url}/query", json={"sql": "SELECT 1"}), 404) == 7404


@pytest.mark.parametrize(
    "body", [{}, {"name": ""}, {"name": "a b"}, {"name": 1}, {"name": "x", "primary_location_hint": "moon"}]
)
def test_a_database_that_cannot_be_is_refused(api: EdgeClient, body):
    assert error(api.post("/d1/database", json=body), 400) == 7400


def test_databases_are_listed_in_pages_and_by_name(api: EdgeClient):
    marker = unique("list")
    mine = {api.create_d1(f"{marker}-{number}") for number in range(3)}
    pages = [
        result(api.get("/d1/database", params={"name": marker, "per_page": 2, "page": page}))
        for page in (1, 2, 3)
    ]
    assert [len(page) for page in pages] == [2, 1, 0]
    assert {database["uuid"] for page in pages for database in page} == mine


def test_a_query_answers_rows_and_meta(database: Database):
    created, inserted = database.query(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT, raw BLOB); INSERT INTO t(name) VALUES('a'), ('b')"
    )
    assert created["meta"]["changed_db"] is True
    assert inserted["meta"]["changes"] == 2
    assert inserted["meta"]["rows_written"] == 2
    assert inserted["meta"]["last_row_id"] == 2
    assert inserted["meta"]["size_after"] >= 8192
    assert database.rows("INSERT INTO t(name, raw) VALUES(?1, ?2) RETURNING *", "c", [0, 255]) == [
        {"id": 3, "name": "c", "raw": [0, 255]}
    ]
    (selected,) = database.query("SELECT name FROM t WHERE id>? ORDER BY id", 1)
    assert selected["results"] == [{"name": "b"}, {"name": "c"}]
    assert selected["meta"]["changed_db"] is False
    assert selected["meta"]["rows_read"] >= 2


def test_raw_answers_columns_and_rows(database: Database):
    answer = database.api.post(f"{database.url}/raw", json={"sql": "SELECT 1 AS a, 'x' AS a, NULL AS c"})
    assert result(answer)[0]["results"] == {"columns": ["a", "a", "c"], "rows": [[1, "x", None]]}


@pytest.mark.parametrize("value", [None, 0, -(2**63), 1.5, "", "ünï\0code", True, [], [1, 2, 3]])
def test_a_parameter_comes_back_as_it_went(database: Database, value):
    assert database.rows("SELECT ? AS v", value) == [{"v": int(value) if value is True else value}]


@pytest.mark.parametrize("value", [2**63, [256], ["a"], {"a": 1}])
def test_a_parameter_that_cannot_be_is_a_clear_error(database: Database, value):
    database.refused("SELECT ?", value)


def test_a_batch_is_one_transaction(database: Database):
    database.query("CREATE TABLE t(a UNIQUE)")
    url = f"{database.url}/query"
    done = result(
        database.api.post(
            url, json={"batch": [{"sql": "INSERT INTO t VALUES(?)", "params": [n]} for n in (1, 2)]}
        )
    )
    assert [one["meta"]["changes"] for one in done] == [1, 1]
    broken = {"batch": [{"sql": "INSERT INTO t VALUES(3)"}, {"sql": "INSERT INTO t VALUES(1)"}]}
    answer = database.api.post(url, json=broken)
    assert error(answer, 400) == 7500
    assert answer.json()["errors"][0]["message"] == (
        "UNIQUE constraint failed: t.a: SQLITE_CONSTRAINT (extended: SQLITE_CONSTRAINT_UNIQUE)"
    )
    assert database.rows("SELECT a FROM t ORDER BY a") == [{"a": 1}, {"a": 2}]


def test_several_statements_in_one_text_are_one_transaction_too(database: Database):
    database.query("CREATE TABLE t(a)")
    database.refused("INSERT INTO t VALUES(1); INSERT INTO nowhere VALUES(2)")
    assert database.rows("SELECT * FROM t") == []


def test_statements_are_told_apart_whatever_they_hold(database: Database):
    script = """
        CREATE TABLE "odd;name"(a TEXT /* ; */, b); -- a comment; with a semicolon
        CREATE TRIGGER fill AFTER INSERT ON "odd;name" BEGIN
            UPDATE "odd;name" SET b = CASE WHEN a = ';' THEN 1 ELSE 2 END WHERE rowid = new.rowid;
            SELECT 1;
        END;
        INSERT INTO [odd;name](a) VALUES(';'); ; INSERT INTO `odd;name`(a) VALUES('it''s; fine');
        SELECT b FROM "odd;name"
    """
    assert [len(one["results"]) for one in database.query(script)] == [0, 0, 0, 0, 2]
    assert database.rows('SELECT b FROM "odd;name"') == [{"b": 1}, {"b": 2}]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"sql": 1},
        {"sql": "SELECT 1", "params": "x"},
        {"sql": "SELECT ?; SELECT ?", "params": [1]},
        {"batch": []},
        {"batch": [1]},
        {"batch": [{"sql": "SELECT 1"}], "sql": "SELECT 1"},
    ],
)
def test_a_malformed_query_is_refused(database: Database, body):
    assert error(database.api.post(f"{database.url}/query", json=body), 400) == 7400


@pytest.mark.parametrize("sql", ["", " ; ", "-- nothing", "/* nothing"])
def test_no_statement_at_all_is_a_clear_error(database: Database, sql: str):
    assert database.refused(sql) == "No SQL statements detected."


@pytest.mark.acceptance("S4.5")
@pytest.mark.parametrize(
    "sql",
    [
        "ATTACH '/etc/passwd' AS other",
        "ATTACH ':memory:' AS other",
        "DETACH main",
        "VACUUM INTO '/tmp/stolen'",
        "PRAGMA journal_mode=DELETE",
        "PRAGMA writable_schema=ON",
        "PRAGMA database_list",
        "SELECT * FROM pragma_database_list",
        "PRAGMA temp_store_directory='/tmp'",
        "PRAGMA max_page_count=2147483647",
        "SELECT load_extension('/tmp/evil.so')",
        "SELECT fts3_tokenizer('simple')",
        "CREATE VIRTUAL TABLE v USING fts4(x)",
        "CREATE VIRTUAL TABLE v USING rtree(a, b, c)",
        "BEGIN",
        "COMMIT",
        "SAVEPOINT s",
        "CREATE TEMP TABLE t(a)",
        "CREATE TABLE _cf_KV(a)",
        "UPDATE sqlite_master SET sql='x'",
        "SELECT zeroblob(1000000000)",
        "SELECT randomblob(3000000)",
        "SELECT readfile('/etc/passwd')",
        "SELECT writefile('/tmp/x', 'x')",
    ],
)
def test_what_leaves_the_file_or_outlives_the_request_is_refused(database: Database, sql: str):
    database.refused(sql)
    assert database.rows("SELECT 1 AS ok") == [{"ok": 1}]


def test_pragmas_that_only_ask_are_allowed_and_settings_end_with_the_request(database: Database):
    database.query("CREATE TABLE t(a)")
    assert database.rows("PRAGMA table_info(t)")[0]["name"] == "a"
    assert database.rows("PRAGMA case_sensitive_like=ON; SELECT 'A' LIKE 'a' AS same") == [{"same": 0}]
    assert database.rows("SELECT 'A' LIKE 'a' AS same") == [{"same": 1}]


def test_foreign_keys_are_enforced_and_can_only_be_deferred(database: Database):
    database.query("CREATE TABLE p(id INTEGER PRIMARY KEY); CREATE TABLE c(p REFERENCES p(id))")
    assert "SQLITE_CONSTRAINT_FOREIGNKEY" in database.refused(
        "PRAGMA foreign_keys=OFF; INSERT INTO c VALUES(1)"
    )
    database.query("PRAGMA defer_foreign_keys=ON; INSERT INTO c VALUES(1); INSERT INTO p VALUES(1)")
    assert database.rows("SELECT count(*) AS n FROM c") == [{"n": 1}]


def test_full_text_search_works(database: Database):
    database.query("CREATE VIRTUAL TABLE f USING fts5(body); INSERT INTO f VALUES('hello world'), ('other')")
    assert database.rows("SELECT body FROM f WHERE f MATCH 'hello'") == [{"body": "hello world"}]


def test_a_result_too_large_to_hold_is_refused(database: Database):
    message = database.refused(
        "WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM r WHERE i<100000) SELECT randomblob(10000) FROM r"
    )
    assert "LIMIT" in message


def test_a_result_is_measured_before_it_is_held(edge: EdgeProcess, database: Database):
    """Each row is far below any limit of SQLite; together they would take gigabytes."""
    before = peak_mb(edge)
    blobs = ", ".join(["randomblob(1900000)"] * 4)
    message = database.refused(
        f"WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM r WHERE i<40) SELECT {blobs} FROM r"
    )
    assert "LIMIT" in message
    assert peak_mb(edge) - before < 200


@pytest.mark.parametrize("path", ["query", "raw"])
def test_a_million_short_rows_take_little_memory_and_hold_up_nobody(own_edge, path: str):
    edge = own_edge("--rate-limit", "0")
    with edge.client(timeout_s=120) as api:
        url, neighbours = f"{Database(api).url}/{path}", Neighbours(edge)

        def ask() -> int:
            # Read, and not taken apart: that would hold up the neighbours, who live in this process too.
            with api.stream("POST", url, json={"sql": MILLION}) as answer:
                assert answer.status_code == 200
                return sum(map(len, answer.iter_raw()))

        assert neighbours.while_running(ask) > 8_000_000
        assert neighbours.grown_mb < 100
        assert neighbours.longest_s < neighbours.took_s / 3


def test_values_that_are_nothing_count_with_their_columns_names(own_edge):
    edge = own_edge("--rate-limit", "0")
    with edge.client(timeout_s=120) as api:
        database, neighbours = Database(api), Neighbours(edge)
        columns = ", ".join(f"'' AS column_{number}" for number in range(50))
        sql = MILLION.replace("SELECT i FROM", f"SELECT {columns} FROM")
        assert "LIMIT" in neighbours.while_running(lambda: database.refused(sql))
        assert neighbours.grown_mb < 100


def test_long_values_are_told_whole_in_both_shapes(database: Database):
    sql = "SELECT ?1 AS t, ?2 AS b, 1.5 AS f, NULL AS n, 'second' AS t"
    text, blob = 'é"\\\x01🪣' * 60_000, list(bytes(range(256)) * 300)
    assert database.rows(sql, text, blob) == [{"t": "second", "b": blob, "f": 1.5, "n": None}]
    answer = database.api.post(f"{database.url}/raw", json={"sql": sql, "params": [text, blob]})
    assert result(answer)[0]["results"] == {
        "columns": ["t", "b", "f", "n", "t"],
        "rows": [[text, blob, 1.5, None, "second"]],
    }


def test_more_statements_than_a_request_may_have_are_refused(database: Database):
    assert "at most" in database.refused("SELECT 1;" * 60_000)
    batch = [{"sql": "SELECT 1;" * 1000}] * 60
    assert error(database.api.post(f"{database.url}/query", json={"batch": batch}), 400) == 7500


def test_a_long_text_holds_up_nobody_while_it_is_taken_apart(
    edge: EdgeProcess, api: EdgeClient, database: Database
):
    texts = {"sql": "  ;" * 1_500_000}
    with ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        reading = pool.submit(api.post, f"{database.url}/query", json=texts)
        waits = []
        while not reading.done():
            asked = time.monotonic()
            assert httpx.get(edge.url + "/healthz", timeout=30).status_code == 200
            waits.append(time.monotonic() - asked)
        took_s = time.monotonic() - began
    assert "No SQL statements" in reading.result().json()["errors"][0]["message"]
    assert max(waits) < took_s / 2


def test_sql_is_interrupted_at_the_time_limit_and_undone(own_edge):
    edge = own_edge("--d1-timeout", "0.5")
    with edge.client() as api:
        database = Database(api)
        database.query("CREATE TABLE t(a)")
        assert "exceeded timeout" in database.refused(f"INSERT INTO t VALUES(1); {ENDLESS}")
        endless_insert = (
            "INSERT INTO t WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM r) SELECT i FROM r"
        )
        assert "exceeded timeout" in database.refused(endless_insert)
        assert database.rows("SELECT count(*) AS n FROM t") == [{"n": 0}]


def test_failed_sql_holds_up_nobody_afterwards(own_edge):
    """What a failed query leaves behind is cleared away sooner or later; never where others would wait for a running one."""
    edge = own_edge("--d1-timeout", "0.02")
    with edge.client(timeout_s=10) as api:
        database = Database(api)
        database.query("CREATE TABLE t(a)")
        for _ in range(60):
            assert "exceeded timeout" in database.refused(f"INSERT INTO t VALUES(1); {ENDLESS}")


@pytest.mark.acceptance("S4.5")
def test_another_account_finds_no_database_of_ours(
    api: EdgeClient, other_api: EdgeClient, database: Database
):
    database.query("CREATE TABLE ours(a)")
    for answer in (
        other_api.get(database.url),
        other_api.post(f"{database.url}/query", json={"sql": "SELECT * FROM ours"}),
        other_api.post(f"{database.url}/raw", json={"sql": "DROP TABLE ours"}),
        other_api.delete(database.url),
    ):
        assert error(answer, 404) == 7404
    assert database.rows("SELECT * FROM ours") == []
