"""The real console in a process of its own, and a visitor with a real browser who notices everything that goes wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import httpx
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Response

from smcp.common.ids import new_id
from smcp.common.tenancy import as_system
from smcp.stack.databases import ensure_database
from smcp.stack.postgres import Postgres
from smcp.stack.processes import Child, Process, spawn
from smcp.stack.redis import Redis
from tenants.models import User
from tests import factories
from tests.console.world import World, build_world
from tests.parts import LOOPBACK, ROOT, Parts, free_port
from tests.waiting import wait_for

EMPTY_DATABASE = "smcp_empty"


class Visitor:
    """A browser page that remembers complaints of the page and answers the server should not have given."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.complaints: list[str] = []
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.complaints.append(f"{page.url}: {error}"))
        page.on("response", self._on_response)

    def open(self, path: str) -> Page:
        self.page.goto(self.url + path)
        return self.page

    def sign_in(self, user: User, password: str = factories.PASSWORD) -> None:
        self.open("/login/")
        self.page.get_by_label("Email").fill(user.email)
        self.page.get_by_label("Password").fill(password)
        self.page.get_by_role("button", name="Sign in").click()

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(f"{self.page.url}: {message.type}: {message.text}")

    def _on_response(self, response: Response) -> None:
        if response.status >= 400:
            self.complaints.append(f"{response.status} {response.url}")


@dataclass(frozen=True)
class Console:
    url: str
    process: Child


def start_console(parts: Parts, *, environ: dict[str, str] | None = None) -> Console:
    port = free_port()
    url = f"http://{LOOPBACK}:{port}"
    whole = {**parts.environ("system"), "SMCP_DOOR": "console", "SMCP_CONSOLE_URL": url, **(environ or {})}
    granian = ["-m", "granian", "--interface", "asgi", "--host", LOOPBACK, "--port", str(port), "--no-ws"]
    child = spawn(
        Process(
            name="console",
            command=(sys.executable, *granian, "smcp.asgi:application"),
            environ=whole,
            directory=ROOT,
        )
    )

    def answers() -> bool:
        assert child.exit_code() is None, child.why_it_ended()
        try:
            return httpx.get(f"{url}/healthz", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    wait_for(answers, 30, what="the console to answer")
    return Console(url, child)


@pytest.fixture(scope="session")
def console(parts: Parts, postgres: Postgres, redis_server: Redis) -> Iterator[str]:
    """The console's address."""
    started = start_console(parts)
    yield started.url
    started.process.stop()


@pytest.fixture(scope="session")
def empty_console(parts: Parts, postgres: Postgres, redis_server: Redis) -> Iterator[str]:
    """A console over a database that holds nothing but the operator `empty@example.com`."""
    passwords = {
        "smcp_owner": parts.secrets.owner_password,
        "smcp_app": parts.secrets.app_password,
        "smcp_system": parts.secrets.system_password,
    }
    logins = ensure_database(parts.postgres.url(), database=EMPTY_DATABASE, passwords=passwords)
    elsewhere = replace(parts, places=replace(parts.places, logins=logins))
    run_django(elsewhere, "owner", "manage.py", "migrate", "--no-input", "--verbosity=0")
    made = (
        "import django; django.setup()\n"
        "from tests import factories\n"
        "factories.make_user('empty@example.com', is_staff=True)\n"
    )
    run_django(elsewhere, "system", "-c", made)
    started = start_console(elsewhere)
    yield started.url
    started.process.stop()


def run_django(parts: Parts, role: str, *arguments: str) -> None:
    child = spawn(
        Process(
            name="django",
            command=(sys.executable, *arguments),
            environ=parts.environ(role),
            directory=ROOT,
        )
    )
    assert child.wait(60), "Django did not end"
    assert child.exit_code() == 0, child.why_it_ended()


@pytest.fixture
def operator(committed_db: None) -> User:
    with as_system():
        return factories.make_user(is_staff=True)


@pytest.fixture
def world(operator: User) -> World:
    """A platform with a life, its slugs its own."""
    with as_system():
        return build_world(operator, prefix=f"{new_id()[-6:]}-")


@pytest.fixture
def visit(
    console: str, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Visitor]]:
    """Opens a browser of its own: `visit()`, `visit(width=390)`. In the end nothing may have gone wrong on any page."""
    # Playwright's event loop runs in this thread, which makes Django refuse the database without this.
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
    visitors: list[Visitor] = []

    def open_browser(url: str = console, *, width: int = 1440, scheme: str = "light") -> Visitor:
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if scheme == "dark" else "light",
            reduced_motion="reduce",
        )
        context.set_default_timeout(15_000)
        visitors.append(Visitor(context.new_page(), url))
        return visitors[-1]

    yield open_browser
    assert [complaint for visitor in visitors for complaint in visitor.complaints] == []


@pytest.fixture
def visitor(visit: Callable[..., Visitor], operator: User) -> Visitor:
    """Signed in as the operator."""
    signed_in = visit()
    signed_in.sign_in(operator)
    return signed_in
