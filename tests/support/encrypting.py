"""What the tests of encrypted ports share: fleets with keys, and who stays out of them."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path
from typing import Any

import zmq
from conftest import PATIENCE, Fleet, eventually

from chaos.fleet import free_port
from spyglass.broker.loop import Broker
from spyglass.client.thread_client import BrokerClient
from spyglass.dispatcher.policy import Policy
from spyglass.keys.authority import KeyAuthority
from spyglass.keys.keyring import Keyring, Role
from spyglass.keys.port_policy import PortPolicy
from spyglass.runtime.open_files import raise_open_files
from spyglass.transport.credentials import Login, join
from testbed.peers import FakeWorker, Peer

#: Seconds in which somebody who may not come in would have come in.
MOMENT = 0.3


class Encrypted(Fleet):
    """A broker whose both ports are encrypted, and the keys to it."""

    def __init__(self, folder: Path) -> None:
        self.keyring = Keyring.create(folder)
        ports = [f"tcp://127.0.0.1:{free_port()}" for _ in range(2)]
        super().__init__(*ports)
        self.client.close()  # a plain one would only be refused
        self.client = BrokerClient([self.way_in(Role.ADMIN, "tester")])

    def way_in(self, role: Role, name: str = "", at: str = "") -> str:
        """An address with a secret of its own."""
        _, login = self.keyring.issue(role, name)
        return join(at or (self.backend if role is Role.WORKER else self.frontend), login)

    def start_broker(self, *flags: str, **more: Any) -> subprocess.Popen[bytes]:
        return super().start_broker(
            *flags, "--keys", str(self.keyring.folder), "--encrypt", "always", **more
        )

    def start_worker(self, name: str, *flags: str, **more: Any) -> subprocess.Popen[bytes]:
        return super().start_worker(name, *flags, at=self.way_in(Role.WORKER, name), **more)


class Said:
    """What a process writes to standard error, line by line."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.lines: list[str] = []
        self._stream = process.stderr
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._stream is not None
        with self._stream:
            for line in self._stream:
                self.lines.append(line.decode())

    def wait(self, what: str) -> str:
        """The first line that has it in."""
        found: str = eventually(lambda: next((x for x in self.lines if what in x), ""), what)
        return found


class Sockets:
    """A broker's loop in this process, with encrypted ports."""

    def __init__(self, folder: Path) -> None:
        self.keyring = Keyring.create(folder)
        self.authority = KeyAuthority(self.keyring)
        port = "tcp://127.0.0.1:*"
        port_policy = PortPolicy(self.authority, True, True)
        self.broker = Broker(port, port, Policy(), raise_open_files(), port_policy=port_policy)
        self.broker.open()
        self.failure: BaseException | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        self.peers: list[Peer] = []

    def _run(self) -> None:
        try:
            self.broker.run()
        except Exception as error:
            self.failure = error

    def login(self, role: Role, name: str = "") -> Login:
        return self.keyring.issue(role, name)[1]

    def peer(self, port: str, login: Login | None, kind: type[Peer] = Peer) -> Any:
        peer = kind(port, login=login)
        self.peers.append(peer)
        return peer

    def worker(self, login: Login | None) -> FakeWorker:
        worker: FakeWorker = self.peer(self.broker.backend, login, FakeWorker)
        return worker

    def front(self, login: Login | None) -> Peer:
        front: Peer = self.peer(self.broker.frontend, login)
        return front

    def names(self) -> list[str]:
        return [worker.name for worker in self.broker.dispatcher.workers.values()]

    def close(self) -> None:
        self.broker.stop()
        self.thread.join()
        for peer in self.peers:
            peer.close()


def stays_out(peer: Peer) -> bool:
    """Whether its socket has nobody to send to for a moment."""
    return not peer.socket.poll(int(1000 * MOMENT), zmq.POLLOUT)


def comes_in(peer: Peer) -> bool:
    return bool(peer.socket.poll(int(1000 * PATIENCE), zmq.POLLOUT))
