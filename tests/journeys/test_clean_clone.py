"""The first command of a newcomer's first day: `make up` in a fresh clone, on a machine that has nothing.

The clone, its environment and its home folder are made from scratch. The PATH holds Python and `sh`, so no Docker, Postgres, Redis,
Node or compiler can be found by name. Only what tells pip and npm how to reach their registries is kept, and their caches: both
check every package against the hash pinned in the clone, whatever place it comes from.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from smcp.stack.config import PORTS
from tests.clients import call_tool, list_tools, text_of, tool_names
from tests.journeys.platform import converse
from tests.parts import ROOT, free_ports
from tests.stack.harness import READY
from tests.waiting import wait_for

INSTALL_TIMEOUT_S = 600.0  # a slow network, a busy machine; otherwise a minute and a half
STOP_TIMEOUT_S = 60.0
PROGRAMS = ("sh",)
ABSENT = ("docker", "psql", "postgres", "redis-server", "node", "npm", "gcc", "cc", "uv")
#: What a machine says about how its registries are reached.
REGISTRY = ("PIP_", "NPM_CONFIG_", "SSL_CERT_", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
REGISTRY_FILES = (".config/pip/pip.conf", ".pip/pip.conf", ".npmrc")
#: What lies about in a used checkout and in no clone.
NOT_TRACKED = (".git", ".venv", "node_modules", "var", "__pycache__", ".*_cache", ".hypothesis")


def clone(destination: Path, home: Path) -> None:
    """What the commit under test holds; of an exported tree, which has no commit, the tree."""
    if not (ROOT / ".git").exists():
        shutil.copytree(ROOT, destination, ignore=shutil.ignore_patterns(*NOT_TRACKED))
        return
    (home / ".gitconfig").write_text("[safe]\n\tdirectory = *\n")  # the checkout may be another user's
    git = ("git", "clone", "--quiet", str(ROOT), str(destination))
    done = subprocess.run(git, env={**os.environ, "HOME": str(home)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def bare_environ(home: Path, ports: dict[str, int]) -> dict[str, str]:
    """Nothing of ours but the documented ports; of the machine's only the way to the registries."""
    programs = home / "programs"
    programs.mkdir()
    version = "{}.{}".format(*sys.version_info)
    (programs / "python3").symlink_to(
        Path(sys.base_prefix, "bin", f"python{version}")
    )  # no virtual environment's
    for name in PROGRAMS:
        (programs / name).symlink_to(str(shutil.which(name)))
    assert not [name for name in ABSENT if shutil.which(name, path=str(programs))]
    for name in REGISTRY_FILES:
        if (Path.home() / name).exists():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            (home / name).symlink_to(Path.home() / name)
    return {
        "PATH": str(programs),
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "PIP_CACHE_DIR": str(Path.home() / ".cache/pip"),
        "npm_config_cache": str(Path.home() / ".npm"),
        **{
            name: value
            for name, value in os.environ.items()
            if name.upper().startswith(REGISTRY) or name.upper() in PROXIES
        },
        **{PORTS[name][0]: str(port) for name, port in ports.items()},
    }


def processes_of(folder: Path) -> list[psutil.Process]:
    """Everything that runs in `folder`, was started from it or was told of it."""
    found = []
    for process in psutil.process_iter():
        try:
            told = [process.cwd(), process.exe(), *process.cmdline(), *process.environ().values()]
        except psutil.Error:
            continue  # gone, or a thread of the kernel
        if process.pid != os.getpid() and any(str(folder) in text for text in told):
            found.append(process)
    return found


class MakeUp:
    """`make up` in a session of its own, as a terminal has it; its output in a file."""

    def __init__(self, checkout: Path, environ: dict[str, str]) -> None:
        self.checkout = checkout
        self._log_path = checkout.with_name("make-up.log")
        self._seen: set[psutil.Process] = set()
        with self._log_path.open("wb") as log:
            self.make = subprocess.Popen(
                (str(shutil.which("make")), "up"),
                cwd=checkout,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                # As in a terminal, also where this run itself was started in the background, with Ctrl-C ignored.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    @property
    def output(self) -> str:
        return self._log_path.read_text()

    def is_ready(self) -> bool:
        assert self.make.poll() is None, self.output[-4000:]
        return (self.checkout / "var/stack.json").exists() and READY in self.output

    def press_ctrl_c(self) -> int:
        """What a terminal does: SIGINT to everything in the foreground. Returns make's exit code."""
        self._seen.update(psutil.Process(self.make.pid).children(recursive=True))
        os.killpg(self.make.pid, signal.SIGINT)
        return self.make.wait(STOP_TIMEOUT_S)

    def leftovers(self) -> list[psutil.Process]:
        alive = {process for process in self._seen if process.is_running() and process.status() != "zombie"}
        return [*alive, *processes_of(self.checkout.parent)]


@pytest.fixture
def make_up(tmp_path: Path) -> Iterator[MakeUp]:
    home = tmp_path / "home"
    home.mkdir()
    clone(tmp_path / "smcp", home)
    run = MakeUp(tmp_path / "smcp", bare_environ(home, dict(zip(PORTS, free_ports(len(PORTS)), strict=True))))
    yield run
    if run.make.poll() is None:
        run.press_ctrl_c()
    shutil.rmtree(run.checkout)  # a few hundred MB, which pytest would keep


@pytest.mark.acceptance("P12", "S0.22")
@pytest.mark.timeout(INSTALL_TIMEOUT_S + 120)
def test_make_up_in_a_clean_clone_on_a_bare_machine_serves_the_demo_and_ends_without_a_trace(make_up: MakeUp):
    wait_for(make_up.is_ready, INSTALL_TIMEOUT_S, what="`make up` to be ready")
    demo = json.loads((make_up.checkout / "var/stack.json").read_text())["demo"]
    assert demo["endpoint"] in make_up.output
    for client in ("python-legacy", "python-modern"):
        said = converse(
            client,
            demo["endpoint"],
            demo["api_key"],
            [list_tools(), call_tool("calculator", operation="add", a=2, b=40)],
        )
        assert "calculator" in tool_names(said.answers[0])
        assert "42" in text_of(said.answers[1])

    assert len(processes_of(make_up.checkout)) > 8
    assert make_up.press_ctrl_c() == -signal.SIGINT  # make's own way to say that it was interrupted
    assert "Stopped." in make_up.output
    assert make_up.leftovers() == []
