"""Scripts over the API: upload, look at, change, delete, in a namespace and outside."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.edge.harness import EdgeClient, EdgeProcess, Neighbours, error, result, unique
from tests.edge.scripts import ESM, EVERYTHING, OBJECTS, Stage, multipart

HELLO = "export default { fetch() { return new Response('hello') } }"


def test_an_uploaded_script_answers_through_the_dispatcher(stage: Stage) -> None:
    name = unique("script")
    answer = result(stage.upload(name, HELLO, tags=["stage-a"]))
    assert answer["id"] == name
    assert answer["handlers"] == ["fetch"]
    assert answer["startup_time_ms"] > 0
    assert stage.call(name).text == "hello"


def test_a_script_in_a_namespace_is_not_reachable_from_outside(stage: Stage) -> None:
    name = stage.deploy(HELLO)
    host = f"{name}.{stage.api.account[:8]}.workers.localhost"
    answer = httpx.get(stage.edge.workers_url, headers={"host": host})
    assert answer.status_code == 404


def test_an_unknown_host_is_404(stage: Stage) -> None:
    for host in ("localhost", "x.workers.localhost", f"x.{'0' * 8}.workers.localhost", "a.b.c"):
        assert httpx.get(stage.edge.workers_url, headers={"host": host}).status_code == 404


def test_get_describes_the_script_and_a_missing_one_is_10092(stage: Stage) -> None:
    name = stage.deploy(HELLO, compatibility_flags=["nodejs_compat"], tags=["one"])
    found = result(stage.api.get(f"{stage.path}/{name}"))
    assert found["dispatch_namespace"] == stage.namespace
    assert found["script"]["id"] == name
    assert found["script"]["tags"] == ["one"]
    assert found["script"]["compatibility_flags"] == ["nodejs_compat"]
    assert error(stage.api.get(f"{stage.path}/{unique('no')}"), 404) == 10092
    assert error(stage.api.delete(f"{stage.path}/{unique('no')}"), 404) == 10092


def test_an_upload_into_a_namespace_that_is_not_there_is_refused(stage: Stage) -> None:
    path = f"/workers/dispatch/namespaces/{unique('no')}/scripts/x"
    assert error(stage.api.put(path, files=multipart(HELLO, {})), 404) == 100119


def test_delete_ends_the_script(stage: Stage) -> None:
    name = stage.deploy(HELLO)
    assert stage.call(name).text == "hello"
    result(stage.api.delete(f"{stage.path}/{name}"))
    answer = stage.call(name)
    assert (answer.status_code, answer.text) == (502, "Worker not found.")


def test_the_list_is_filtered_by_tags_and_deleted_in_bulk(stage: Stage) -> None:
    tag, other = unique("tag"), unique("tag")
    both = stage.deploy(HELLO, tags=[tag, other])
    first = stage.deploy(HELLO, tags=[tag])
    untouched = stage.deploy(HELLO, tags=[other])

    def names(tags: str) -> set[str]:
        return {script["id"] for script in result(stage.api.get(stage.path, params={"tags": tags}))}

    assert names(f"{tag}:yes") == {both, first}
    assert names(f"{tag}:yes,{other}:no") == {first}
    assert result(stage.api.get(stage.path, params={"page": 2, "per_page": 1000})) == []
    assert error(stage.api.delete(stage.path), 400)
    result(stage.api.delete(stage.path, params={"tags": f"{tag}:yes"}))
    assert names(f"{tag}:yes") == set()
    assert stage.call(untouched).text == "hello"


def test_tags_are_put_and_deleted_and_at_most_eight(stage: Stage) -> None:
    name = stage.deploy(HELLO)
    path = f"{stage.path}/{name}/tags"
    assert result(stage.api.put(path, json=["a", "b"])) == ["a", "b"]
    assert result(stage.api.put(path + "/c")) == ["a", "b", "c"]
    result(stage.api.delete(path + "/a"))
    assert result(stage.api.get(path)) == ["b", "c"]
    assert error(stage.api.put(path, json=[str(number) for number in range(9)]), 400) == 10021
    assert error(stage.api.put(path, json=["a,b"]), 400) == 10021
    assert result(stage.api.get(path)) == ["b", "c"]


def test_secrets_go_in_and_never_come_out(stage: Stage) -> None:
    name = stage.deploy(bindings=[{"type": "plain_text", "name": "PLAIN", "text": "seen"}])
    path = f"{stage.path}/{name}/secrets"
    put = stage.api.put(path, json={"name": "TOKEN", "text": "hunter2", "type": "secret_text"})
    assert result(put) == {"name": "TOKEN", "type": "secret_text"}
    assert stage.call(name, "/var?name=TOKEN").json() == "hunter2"
    assert result(stage.api.get(path)) == [{"name": "TOKEN", "type": "secret_text"}]
    assert result(stage.api.get(path + "/TOKEN")) == {"name": "TOKEN", "type": "secret_text"}
    for part in ("settings", "bindings"):
        assert "hunter2" not in stage.api.get(f"{stage.path}/{name}/{part}").text
    taken = stage.api.put(path, json={"name": "PLAIN", "text": "x", "type": "secret_text"})
    assert error(taken, 400) == 10053
    result(stage.api.delete(path + "/TOKEN"))
    assert stage.call(name, "/var?name=TOKEN").json() is None
    assert error(stage.api.delete(path + "/TOKEN"), 404) == 10056


def test_secrets_change_in_bulk(stage: Stage) -> None:
    name = stage.deploy(bindings=[{"type": "secret_text", "name": "OLD", "text": "1"}])
    secrets = {"OLD": None, "A": {"name": "A", "type": "secret_text", "text": "a"}}
    answer = stage.api.patch(f"{stage.path}/{name}/secrets-bulk", json={"secrets": secrets})
    assert [item["name"] for item in result(answer)] == ["A"]
    assert stage.call(name, "/var?name=A").json() == "a"
    assert stage.call(name, "/var?name=OLD").json() is None


def test_an_upload_keeps_and_inherits_bindings(stage: Stage) -> None:
    secret = {"type": "secret_text", "name": "TOKEN", "text": "kept"}
    plain = {"type": "plain_text", "name": "MODE", "text": "old"}
    name = stage.deploy(bindings=[secret, plain])
    stage.deploy(name=name, keep_bindings=["secret_text"], bindings=[{"type": "inherit", "name": "MODE"}])
    assert stage.call(name, "/var?name=TOKEN").json() == "kept"
    assert stage.call(name, "/var?name=MODE").json() == "old"
    stage.deploy(name=name)
    assert stage.call(name, "/var?name=TOKEN").json() is None
    lost = stage.upload(name, bindings=[{"type": "inherit", "name": "MODE"}])
    assert error(lost, 400) == 10057


def test_settings_are_read_and_patched(stage: Stage) -> None:
    name = stage.deploy(
        bindings=[{"type": "secret_text", "name": "TOKEN", "text": "kept"}], limits={"cpu_ms": 500}
    )
    path = f"{stage.path}/{name}/settings"
    assert result(stage.api.get(path))["limits"] == {"cpu_ms": 500}
    settings = {"bindings": [{"type": "plain_text", "name": "MODE", "text": "new"}], "tags": ["patched"]}
    patched = result(stage.api.patch(path, files=[("settings", (None, json.dumps(settings)))]))
    assert patched["tags"] == ["patched"]
    assert {binding["name"] for binding in patched["bindings"]} == {"MODE", "TOKEN"}
    assert stage.call(name, "/var?name=MODE").json() == "new"
    assert stage.call(name, "/var?name=TOKEN").json() == "kept"


def test_large_modules_come_and_go_without_being_held_or_holding_up_anybody(own_edge) -> None:
    edge, size = own_edge("--rate-limit", "0"), 32 * 1024 * 1024
    with edge.client(timeout_s=120) as api:
        stage, name = Stage(edge, api), unique("script")
        files = multipart(HELLO, {}, {"large.bin": ("application/octet-stream", bytes(size))})
        coming, going = Neighbours(edge), Neighbours(edge)
        result(coming.while_running(lambda: api.put(f"{stage.path}/{name}", files=files)))

        def read() -> int:
            with api.stream("GET", f"{stage.path}/{name}/content") as answer:
                return sum(map(len, answer.iter_raw()))

        assert going.while_running(read) > size
        assert coming.grown_mb + going.grown_mb < 25
        assert coming.longest_s < coming.took_s / 2


def test_content_gives_the_modules_back(stage: Stage) -> None:
    name = unique("script")
    modules = {
        "./lib/text.txt": ("text/plain", b"a note"),
        "lib/data.bin": ("application/octet-stream", b"\x00\xff"),
    }
    code = """
      import text from "./lib/text.txt"; import data from "./lib/data.bin";
      export default { fetch() { return new Response(text + new Uint8Array(data).length) } }"""
    result(stage.api.put(f"{stage.path}/{name}", files=multipart(code, {}, modules)))
    assert stage.call(name).text == "a note2"
    answer = stage.api.get(f"{stage.path}/{name}/content")
    assert answer.headers["cf-entrypoint"] == "index.js"
    assert answer.headers["content-type"].startswith("multipart/form-data")
    assert b"a note" in answer.content
    assert code.encode() in answer.content


def test_every_binding_reaches_the_code(stage: Stage) -> None:
    bindings = [
        {"type": "plain_text", "name": "PLAIN", "text": 'text with "quotes", \\ and ünïcode\n'},
        {"type": "secret_text", "name": "SECRET", "text": "s3cret"},
        {"type": "json", "name": "JSON", "json": {"deep": [1, None, "ü"]}},
        {"type": "version_metadata", "name": "VERSION"},
        *stage.storage(),
        *OBJECTS["bindings"],
    ]
    name = stage.deploy(
        bindings=bindings, migrations=OBJECTS["migrations"], annotations={"workers/tag": "t1"}
    )
    assert stage.call(name).json()["env"] == sorted(binding["name"] for binding in bindings)
    assert stage.call(name, "/var?name=PLAIN").json() == bindings[0]["text"]
    assert stage.call(name, "/var?name=SECRET").json() == "s3cret"
    assert stage.call(name, "/var?name=JSON").json() == {"deep": [1, None, "ü"]}
    version = stage.call(name, "/var?name=VERSION").json()
    assert (len(version["id"]), version["tag"]) == (36, "t1")


def test_storage_bindings_work(stage: Stage) -> None:
    name = stage.deploy(bindings=stage.storage())
    assert stage.call(name, "/kv/put?k=a&v=1").text == "ok"
    assert stage.call(name, "/kv/get?k=a").json() == "1"
    assert stage.call(name, "/r2/put?k=a", method="PUT", content=b"x" * 300_000).text == "ok"
    assert stage.call(name, "/r2/get?k=a").content == b"x" * 300_000
    assert stage.call(name, "/d1", method="POST", content="SELECT 40 + 2 AS n").json() == [{"n": 42}]


def test_account_scripts_and_services(edge: EdgeProcess, api: EdgeClient) -> None:
    name = unique("worker")
    assert error(api.get(f"/workers/services/{name}"), 404) == 10090
    assert error(api.get(f"/workers/scripts/{name}/settings"), 404) == 10007
    result(api.put(f"/workers/scripts/{name}", files=multipart(HELLO, {}), params={"excludeScript": "true"}))
    host = {"host": f"{name}.{api.account[:8]}.workers.localhost"}
    assert httpx.get(edge.workers_url, headers=host).status_code == 404
    assert result(api.get(f"/workers/workers/{name}"))["subdomain"]["enabled"] is False
    result(api.post(f"/workers/scripts/{name}/subdomain", json={"enabled": True, "previews_enabled": True}))
    assert httpx.get(edge.workers_url, headers=host).text == "hello"
    result(api.put(f"/workers/scripts/{name}", files=multipart(HELLO, {})))
    assert httpx.get(edge.workers_url, headers=host).text == "hello"
    assert result(api.get(f"/workers/services/{name}"))["default_environment"]["script"]["id"] == name
    assert name in {script["id"] for script in result(api.get("/workers/scripts"))}
    assert result(api.get("/workers/scripts", params={"page": 99, "per_page": 10})) == []
    assert result(api.get(f"/workers/workers/{name}"))["subdomain"]["enabled"] is True
    result(api.post(f"/workers/scripts/{name}/subdomain", json={"enabled": False}))
    assert httpx.get(edge.workers_url, headers=host).status_code == 404
    result(api.delete(f"/workers/services/{name}", params={"force": "true"}))
    assert error(api.get(f"/workers/scripts/{name}"), 404) == 10007


def test_a_name_no_script_can_have_is_refused(api: EdgeClient) -> None:
    for name in ("UPPER", "a" * 64, "dot.ted", "%20"):
        assert error(api.put(f"/workers/scripts/{name}", files=multipart(HELLO, {})), 400) == 10016


def test_dispatch_namespaces_are_made_found_and_deleted(api: EdgeClient, other_api: EdgeClient) -> None:
    name = unique("ns")
    made = result(api.post("/workers/dispatch/namespaces", json={"name": name}))
    assert made["namespace_name"] == name
    path = f"/workers/dispatch/namespaces/{name}"
    assert result(api.get(path))["namespace_id"] == made["namespace_id"]
    assert name in {item["namespace_name"] for item in result(api.get("/workers/dispatch/namespaces"))}
    assert error(api.post("/workers/dispatch/namespaces", json={"name": name}), 409)
    assert error(other_api.get(path), 404) == 100119
    result(api.put(path + "/scripts/x", files=multipart(HELLO, {})))
    assert result(api.get(path))["script_count"] == 1
    assert error(api.delete(path), 400)
    result(api.delete(path + "/scripts/x"))
    result(api.delete(path))
    assert error(api.get(path), 404) == 100119


@pytest.mark.parametrize("part", ["", "/settings", "/secrets", "/content", "/bindings", "/tags"])
def test_another_account_sees_nothing_of_a_script(stage: Stage, other_api: EdgeClient, part: str) -> None:
    name = stage.deploy(HELLO)
    assert error(other_api.get(f"{stage.path}/{name}{part}"), 404) in (10092, 100119)


def test_wrangler_shapes_of_an_upload_are_understood(stage: Stage) -> None:
    """Names only in the part's name, a leading ./, a source map, a JSON part without a content type."""
    metadata = {
        "main_module": "./index.js",
        "compatibility_date": "2026-10-01",
        "bindings": [{"name": "MODE", "type": "plain_text", "text": "x"}],
        "migrations": {"new_tag": "v1", "steps": [{"new_sqlite_classes": ["Counter"]}]},
        "code_update_strategy": {"mode": "deferred", "max_delay": 300},
        "observability": {"enabled": True, "head_sampling_rate": 1},
        "keep_bindings": ["secret_text", "secret_key"],
        "limits": {"cpu_ms": 5000},
    }
    boundary = "----edge"
    lines = []
    for disposition, kind, content in (
        ('name="metadata"', None, json.dumps(metadata)),
        ('name="./index.js"', ESM, EVERYTHING),
        ('name="index.js.map"; filename="index.js.map"', "application/source-map", "{}"),
    ):
        lines += [f"--{boundary}", f"Content-Disposition: form-data; {disposition}"]
        lines += [f"Content-Type: {kind}"] if kind else []
        lines += ["", content]
    body = "\r\n".join([*lines, f"--{boundary}--", ""])
    name = unique("script")
    answer = stage.api.put(
        f"{stage.path}/{name}",
        params={"excludeScript": "true", "bindings_inherit": "strict"},
        content=body.encode(),
        headers={"content-type": f"multipart/form-data; boundary={boundary}"},
    )
    assert result(answer)["migration_tag"] == "v1"
    assert stage.call(name, "/var?name=MODE").json() == "x"
