"""A real fleet of processes on random ports, with a stand-in for the model."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from chaos.fleet import free_port
from spyglass.client.thread_client import BrokerClient, RequestFailed

ROOT = Path(__file__).resolve().parent.parent
CAT = (ROOT / "static" / "samples" / "cat.jpg").read_bytes()

# An example may take any time: others use this machine as well.
hypothesis.settings.register_profile(
    "patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("patient")

#: Seconds any condition may take on a slow, busy machine.
PATIENCE = 30.0


def eventually(condition: Callable[[], Any], what: str, within: float = PATIENCE) -> Any:
    """Wait until the condition holds; its value."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        if value := condition():
            return value
        select.select([], [], [], 0.002)
    raise AssertionError(f"never came true: {what}")


def rss(pid: int) -> int:
    """Bytes of memory a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Fleet:
    """Broker and stand-in workers as processes; everything is ended by `close`."""

    def __init__(self, frontend: str = "", backend: str = "") -> None:
        """At these addresses, or at free ports."""
        self.frontend = frontend or f"tcp://127.0.0.1:{free_port()}"
        self.backend = backend or f"tcp://127.0.0.1:{free_port()}"
        self.processes: list[subprocess.Popen[bytes]] = []
        self.broker: subprocess.Popen[bytes] | None = None
        self.client = BrokerClient([self.frontend])

    def start(self, *command: str, **more: Any) -> subprocess.Popen[bytes]:
        return self.start_command(sys.executable, *command, **more)

    def start_command(
        self, *command: str, cwd: Path = ROOT, **more: Any
    ) -> subprocess.Popen[bytes]:
        """Any program, ended with the fleet."""
        process = subprocess.Popen(command, cwd=cwd, **more)
        self.processes.append(process)
        return process

    def start_broker(self, *flags: str, **more: Any) -> subprocess.Popen[bytes]:
        ends = ["--frontend", self.frontend, "--backend", self.backend]
        self.broker = self.start("broker.py", *ends, *flags, **more)
        return self.broker

    def start_worker(self, name: str, *flags: str, **more: Any) -> subprocess.Popen[bytes]:
        """A worker with one child; waits until the broker lists it."""
        process = self.launch_worker(name, *flags, **more)
        eventually(lambda: name in self.names(), f"{name} joins")
        return process

    def launch_worker(
        self, name: str, *flags: str, at: str = "", **more: Any
    ) -> subprocess.Popen[bytes]:
        """A worker with one child, at another address than the broker's if `at` names one."""
        where = [] if "--listen" in flags else [at or self.backend]
        return self.start(
            "testbed/stand_in.py", *where, "--processes", "1", "--name", name, *flags, **more
        )

    def status(self) -> dict[str, Any]:
        try:
            return self.client.status()
        except RequestFailed:
            return {"workers": [], "counters": {}, "departed": [], "events": [], "queue": {}}

    def names(self) -> list[str]:
        return [worker["name"] for worker in self.status()["workers"]]

    def worker(self, name: str) -> dict[str, Any]:
        return next(w for w in self.status()["workers"] if w["name"] == name)

    def close(self) -> None:
        self.client.close()
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()


class Site(Fleet):
    """A fleet with a web before it."""

    def __init__(self) -> None:
        super().__init__()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.web: subprocess.Popen[bytes] | None = None

    def start_web(self, **more: Any) -> subprocess.Popen[bytes]:
        """A web; waits until it has found the broker."""
        ends = ["--broker", self.frontend, "--port", str(self.port)]
        self.web = self.start("web.py", *ends, **more)
        eventually(lambda: self.get("/livez")[0] == 200, "the web is up")
        eventually(lambda: self.get("/v1/status")[0] == 200, "it has found the broker")
        return self.web

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body; status 0 if there was no answer."""
        return self._ask(urllib.request.Request(self.url + path))

    def send(self, picture: bytes, query: str = "") -> tuple[int, bytes]:
        """As `get`, for a picture to be recognised."""
        url = f"{self.url}/v1/classify{query}"
        return self._ask(urllib.request.Request(url, picture, {"Content-Type": "image/jpeg"}))

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def waiting(self) -> int:
        """Requests in the broker's queue."""
        return int(self.status()["queue"].get("waiting", -1))

    def _ask(self, request: urllib.request.Request) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return int(answer.status), answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()
        except OSError:
            return 0, b""


def with_a_broker(fleet: Fleet) -> Iterator[Fleet]:
    """Its broker, and nothing else of it yet."""
    try:
        fleet.start_broker()
        eventually(lambda: fleet.status()["queue"], "the broker answers")
        yield fleet
    finally:
        fleet.close()


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    """A broker without workers."""
    yield from with_a_broker(Fleet())


@pytest.fixture
def site() -> Iterator[Site]:
    """A broker and a web; workers as the test wishes."""
    site = Site()
    try:
        site.start_broker()
        site.start_web()
        yield site
    finally:
        site.close()


@pytest.fixture
def encrypted(tmp_path: Path) -> Iterator[Any]:
    """A broker without workers, both of whose ports are encrypted."""
    from encrypting import Encrypted

    yield from with_a_broker(Encrypted(tmp_path / "keys"))


@pytest.fixture
def sockets(tmp_path: Path) -> Iterator[Any]:
    """A broker's loop in this process, both of whose ports are encrypted."""
    from encrypting import Sockets

    sockets = Sockets(tmp_path / "keys")
    try:
        yield sockets
    finally:
        sockets.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One Chromium for all tests of a module. Playwright keeps an event loop running meanwhile, and
    nothing else could run one in this thread."""
    browsing = pytest.importorskip("browsing")
    if not browsing.CHROMIUM:
        pytest.skip("Chromium is not installed")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=1000 * PATIENCE)
    browsing.ARTEFACTS.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browsing.CHROMIUM, args=browsing.FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def all_pages(browser: Any) -> Iterator[Any]:
    from browsing import Pages

    pages = Pages()
    yield pages
    pages.close()


@pytest.fixture
def pages(all_pages: Any) -> Any:
    """Web, broker and two stand-in workers, shared by all tests of the pages."""
    all_pages.muster()
    return all_pages


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page whose console must stay clean, but for failed answers that a test provokes."""
    errors: list[str] = []

    def heard(message: Any) -> None:
        if message.type == "error" and "Failed to load resource" not in message.text:
            errors.append(message.text)

    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.on("console", heard)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("dialog", lambda dialog: errors.append(f"a foreign script ran: {dialog.message}"))
    yield page
    page.unroute_all(behavior="ignoreErrors")  # one may be asking a web that ends meanwhile
    page.close()
    assert errors == []
