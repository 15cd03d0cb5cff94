"""Starts Spyglass's programs on free ports: a broker with workers, a web before it, or the whole of
`make run`. Workers have the real model, or a stand-in for it, which starts in half a second.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from spyglass.client.thread_client import BrokerClient, RequestFailed
from testbed.processes import ROOT, Processes, eventually, free_address, free_port

#: The workers' programs: without a model, and with the real one.
STAND_IN, REAL = "testbed/stand_in.py", "worker.py"
#: A picture to send.
CAT = (ROOT / "static" / "samples" / "cat.jpg").read_bytes()
#: Seconds `make run` may take to stop as it should.
STOP_WITHIN = 60.0


class Programs(Processes):
    """Spyglass's programs, each with the flags it cannot do without. Waits for none of them."""

    def run_broker(
        self, front: str, back: str, *flags: str, **options: Any
    ) -> subprocess.Popen[bytes]:
        """A broker whose two ports are at these addresses."""
        return self.start("broker.py", "--frontend", front, "--backend", back, *flags, **options)

    def run_worker(
        self, name: str, at: Sequence[str], *flags: str, program: str = STAND_IN, **options: Any
    ) -> subprocess.Popen[bytes]:
        """A worker with one child that joins the brokers at these addresses."""
        return self.start(program, *at, "--processes", "1", "--name", name, *flags, **options)

    def run_web(
        self, brokers: Sequence[str], port: int, *flags: str, **options: Any
    ) -> subprocess.Popen[bytes]:
        """A web at this port, for the brokers at these addresses."""
        named = [flag for address in brokers for flag in ("--broker", address)]
        return self.start("web.py", *named, "--port", str(port), *flags, **options)


class Fleet(Programs):
    """One broker and its workers."""

    def __init__(
        self, frontend: str = "", backend: str = "", grace: float = 0.0, **options: Any
    ) -> None:
        """At these addresses, or at free ports; the others are for `Processes`."""
        super().__init__(grace, **options)
        self.frontend = frontend or free_address()
        self.backend = backend or free_address()
        self.broker: subprocess.Popen[bytes] | None = None
        self.client = BrokerClient([self.frontend])

    def start_broker(self, *flags: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start it, or start it again at the same ports."""
        self.broker = self.run_broker(self.frontend, self.backend, *flags, **options)
        return self.broker

    def wait_for_broker(self) -> None:
        """Until it answers."""
        eventually(lambda: self.status()["queue"], "the broker answers")

    def start_worker(self, name: str, *flags: str, **options: Any) -> subprocess.Popen[bytes]:
        """A worker; waits until the broker lists it."""
        process = self.launch_worker(name, *flags, **options)
        eventually(lambda: name in self.names(), f"{name} joins")
        return process

    def launch_worker(
        self, name: str, *flags: str, at: str = "", **options: Any
    ) -> subprocess.Popen[bytes]:
        """A worker, at another address than the broker's if `at` names one. Waits for nothing."""
        where = [] if "--listen" in flags else [at or self.backend]
        return self.run_worker(name, where, *flags, **options)

    def status(self) -> dict[str, Any]:
        """The broker's snapshot; an empty one while it does not answer."""
        try:
            return self.client.status()
        except RequestFailed:
            return {"workers": [], "counters": {}, "departed": [], "events": [], "queue": {}}

    def names(self) -> list[str]:
        """Of all workers that the broker lists."""
        return [worker["name"] for worker in self.status()["workers"]]

    def worker(self, name: str) -> dict[str, Any]:
        """What the snapshot shows of one worker."""
        return next(w for w in self.status()["workers"] if w["name"] == name)

    def close(self) -> None:
        self.client.close()
        super().close()


class Site(Fleet):
    """A fleet with a web before it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.web: subprocess.Popen[bytes] | None = None

    def start_web(self, *flags: str, **options: Any) -> subprocess.Popen[bytes]:
        """A web; waits until it has found the broker."""
        self.web = self.run_web([self.frontend], self.port, *flags, **options)
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
        """A bare connection to the web."""
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


def own_ports(port: int) -> dict[str, str]:
    """Settings of a `make run` that disturbs no other: the web at this port, the rest at free
    ones."""
    return {
        "SPYGLASS_PORT": str(port),
        "SPYGLASS_FRONTEND": free_address(),
        "SPYGLASS_BACKEND": free_address(),
    }


class Service(Processes):
    """Everything that `make run` starts, with its defaults but for the settings given."""

    def __init__(
        self,
        *command: str,
        settings: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        """Start it, on ports of its own.

        Args:
            command: how Python starts it, for those who start it otherwise than make does.
            settings: variables added to `env`.
            env, options: of subprocess.Popen.
        """
        super().__init__(STOP_WITHIN, **options)
        self.port = free_port()
        self.env = {**(os.environ if env is None else env), **own_ports(self.port)}
        self.env.update(settings or {})
        self.process = self.start(*(command or ("-m", "spyglass.local")), env=self.env)

    def status(self) -> Any:
        """The snapshot of the fleet.

        Raises:
            OSError: the web is not there (URLError is one).
        """
        url = f"http://127.0.0.1:{self.port}/v1/status"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)
