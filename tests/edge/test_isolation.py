"""What one script cannot do to another, to the machine, or to the edge."""

from __future__ import annotations

import httpx
import pytest

from tests.edge.harness import EdgeProcess
from tests.edge.scripts import EVERYTHING, OBJECTS, Stage, until, workerd_pids


def test_readiness_says_which_isolation_is_on(edge: EdgeProcess) -> None:
    ready = httpx.get(edge.url + "/readyz").json()
    assert ready["ready"] is True
    isolation = ready["isolation"]
    for wall in ("network_namespace", "own_user", "seccomp"):
        assert isolation[wall] is True or isolation["missing"][wall]
    assert isolation["no_new_privileges"] is True
    assert isolation["process_per_script"] is True


@pytest.mark.acceptance("S4.5")
def test_two_scripts_do_not_share_storage(stage: Stage, other_stage: Stage) -> None:
    for first, second in ((stage, stage), (stage, other_stage)):
        bindings = [first.storage() + OBJECTS["bindings"], second.storage() + OBJECTS["bindings"]]
        one = first.deploy(bindings=bindings[0], migrations=OBJECTS["migrations"])
        two = second.deploy(bindings=bindings[1], migrations=OBJECTS["migrations"])
        first.call(one, "/kv/put?k=a&v=mine")
        first.call(one, "/r2/put?k=a", method="PUT", content=b"mine")
        first.call(one, "/d1", method="POST", content="CREATE TABLE mine(x)")
        assert [first.call(one, "/object/add").json() for _ in range(3)] == [1, 2, 3]
        assert second.call(two, "/kv/get?k=a").json() is None
        assert second.call(two, "/r2/get?k=a").status_code == 404
        listed = second.call(two, "/d1", method="POST", content="SELECT name FROM sqlite_master")
        assert listed.json() == []
        assert second.call(two, "/object/add").json() == 1


@pytest.mark.parametrize("kind", ["kv", "r2", "d1", "dispatch", "egress"])
def test_a_forged_resource_header_is_replaced(stage: Stage, kind: str) -> None:
    bindings = stage.storage()
    owner = stage.deploy(bindings=bindings)
    stage.call(owner, "/kv/put?k=secret&v=loot")
    names = {"kv": bindings[0]["namespace_id"], "r2": bindings[1]["bucket_name"], "d1": bindings[2]["id"]}
    thief = stage.deploy()
    resource = f"{kind}/{names.get(kind, stage.namespace)}"
    answer = stage.call(thief, f"/forge?k=secret&resource={resource}")
    assert answer.status_code == 403
    assert "Egress refused" in answer.text
    assert "loot" not in answer.text


def test_a_script_cannot_name_resources_of_another_account(stage: Stage, other_stage: Stage) -> None:
    for binding in stage.storage():
        assert other_stage.upload("thief", bindings=[binding]).status_code == 400


def test_headers_of_the_edge_and_of_the_connection_do_not_pass(stage: Stage) -> None:
    name = stage.deploy()
    headers = {
        "x-edge-resource": "kv/x",
        "x-edge-proto": "https",
        "x-edge-cf": '{"country":"forged"}',
        "x-edge-script": "other",
        "connection": "x-hop",
        "x-hop": "1",
        "te": "trailers",
        "cf-connecting-ip": "6.6.6.6",
        "x-mine": "kept",
    }
    seen = stage.call(name, "/", headers=headers).json()
    assert seen["url"].startswith("http://")
    assert seen["cf"] is None
    assert seen["headers"]["x-mine"] == "kept"
    assert seen["headers"]["cf-connecting-ip"] == "127.0.0.1"
    assert not {"x-hop", "te", "connection"} & seen["headers"].keys()
    assert not [header for header in seen["headers"] if header.startswith("x-edge")]


def test_a_script_cannot_speak_for_the_edge(stage: Stage) -> None:
    name = stage.deploy()
    for path, status, text in (
        ("/fake-error", 200, "mine"),
        ("/pretend", 500, "Internal Server Error"),
    ):
        answer = stage.call(name, path)
        assert (answer.status_code, answer.text) == (status, text)
        assert "x-edge-error" not in answer.headers
        assert "x-thrown" not in answer.headers


THROWS_FROM_A_CLASS = """
import { WorkerEntrypoint } from "cloudflare:workers";
export default class extends WorkerEntrypoint {
  fetch() { throw new TypeError("a class threw"); }
}
"""
THROWS_FROM_A_PRIVATE_FIELD = """
export default new (class {
  #word = "private";
  async fetch() { throw { message: this.#word }; }
})();
"""
THROWS_WHAT_CANNOT_BE_READ = """
export default { fetch() { throw { get message() { throw 1; } }; } };
"""
ANSWERS_NOTHING = "export default { fetch() {} };"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (EVERYTHING, "boom"),
        (THROWS_FROM_A_CLASS, "a class threw"),
        (THROWS_FROM_A_PRIVATE_FIELD, "private"),
        ('export default { fetch() { throw "text" } };', "text"),
        ('export default { async fetch() { throw new Error("x".repeat(5000)) } };', "x" * 1000),
        (THROWS_WHAT_CANNOT_BE_READ, "The Worker threw an exception."),
        (ANSWERS_NOTHING, "The Worker threw an exception."),
    ],
)
def test_what_a_script_throws_is_thrown_at_the_dispatcher_in_its_own_words(
    stage: Stage, code: str | bytes, said: str
) -> None:
    answer = stage.call(stage.deploy(code), "/throw")
    assert (answer.status_code, answer.headers["x-thrown"], answer.text) == (502, "1", said)


def test_processes_have_no_network_no_privileges_and_users_of_their_own(stage: Stage) -> None:
    isolation = httpx.get(stage.edge.url + "/readyz").json()["isolation"]
    names = [stage.deploy() for _ in range(2)]
    for name in names:
        assert stage.call(name).status_code == 200
    users = []
    pids = workerd_pids(stage.edge)
    for pid in pids:
        with open(f"/proc/{pid}/status") as file:
            status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
        assert status["NoNewPrivs"] == "1"
        if isolation["seccomp"]:
            assert status["Seccomp"] == "2"
        if isolation["own_user"]:
            assert int(status["CapEff"], 16) == 0
            users.append(status["Uid"].split()[0])
        if isolation["network_namespace"]:
            with open(f"/proc/{pid}/net/dev") as file:
                interfaces = [line.split(":")[0].strip() for line in file.readlines()[2:]]
            assert interfaces == ["lo"]
    assert "0" not in users
    assert len(set(users)) == len(users)


@pytest.mark.acceptance("S4.14", "S0.6")
def test_a_busy_loop_is_killed_and_neighbours_are_not_disturbed(stage: Stage) -> None:
    looping, neighbour = stage.deploy(limits={"cpu_ms": 300}), stage.deploy()
    assert stage.call(neighbour, "/grow?mb=1").text == "1"
    answer = stage.call(looping, "/loop")
    assert (answer.status_code, answer.text) == (502, "Worker exceeded CPU time limit.")
    assert stage.call(neighbour, "/kept").text == "1"
    assert stage.call(looping, "/version").status_code == 200


def test_the_dispatcher_may_set_a_stricter_cpu_limit(stage: Stage) -> None:
    name = stage.deploy()
    answer = stage.call(name, "/loop", headers={"x-cpu": "200"})
    assert (answer.status_code, answer.text) == (502, "Worker exceeded CPU time limit.")


@pytest.mark.acceptance("S4.13")
def test_a_script_that_fills_its_heap_dies_alone(stage: Stage) -> None:
    greedy, neighbour = stage.deploy(), stage.deploy()
    assert stage.call(neighbour, "/grow?mb=1").text == "1"
    answer = stage.call(greedy, "/fill", timeout_s=60)
    assert (answer.status_code, answer.text) == (502, "Worker exceeded memory limit.")
    assert stage.call(neighbour, "/kept").text == "1"
    assert stage.call(greedy, "/version").status_code == 200


def test_a_script_that_grew_is_replaced_by_a_fresh_process(stage: Stage) -> None:
    name = stage.deploy()
    assert stage.call(name, "/grow?mb=220").text == "1"
    until(lambda: stage.call(name, "/kept").text == "0")


def test_nothing_of_code_or_secrets_stays_beside_a_running_process(stage: Stage) -> None:
    name = stage.deploy(bindings=[{"type": "secret_text", "name": "TOKEN", "text": "quite-a-secret"}])
    assert stage.call(name, "/var?name=TOKEN").json() == "quite-a-secret"
    for path in (stage.edge.data / "scripts").rglob("*"):
        if path.is_file():
            assert b"quite-a-secret" not in path.read_bytes()


@pytest.mark.acceptance("S4.16")
def test_a_script_sees_no_file_of_the_machine(stage: Stage) -> None:
    code = """
      import fs from "node:fs";
      export default { fetch() {
        const seen = {};
        for (const path of ["/etc/passwd", "/proc/self/status", "/proc/self/cwd", "console.log", "."]) {
          try { seen[path] = String(fs.statSync(path).isFile() && fs.readFileSync(path)); }
          catch (error) { seen[path] = "error"; }
        }
        return Response.json({ seen, root: fs.readdirSync("/") });
      } }"""
    answer = stage.call(stage.deploy(code, compatibility_flags=["nodejs_compat"])).json()
    assert set(answer["seen"].values()) <= {"error", "false"}
    assert not {"etc", "proc", "home", "root", "usr"} & set(answer["root"])
