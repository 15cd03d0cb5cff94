"""What the tests of encrypted ports share: a broker in this process, and who stays out of it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import zmq

from spyglass.broker.loop import Broker
from spyglass.dispatcher.policy import Policy
from spyglass.keys.authority import KeyAuthority
from spyglass.keys.keyring import Keyring, Role
from spyglass.keys.port_policy import PortPolicy
from spyglass.runtime.open_files import raise_open_files
from spyglass.transport.credentials import ClientKeys
from testbed.peers import FakeWorker, Peer
from testbed.processes import PATIENCE

#: Seconds in which a peer that must not get connected would have been.
MOMENT = 0.3


class BrokerThread:
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

    def client_keys(self, role: Role, name: str = "") -> ClientKeys:
        return self.keyring.issue(role, name)[1]

    def peer(self, port: str, client_keys: ClientKeys | None, kind: type[Peer] = Peer) -> Any:
        peer = kind(port, keys=client_keys)
        self.peers.append(peer)
        return peer

    def worker(self, client_keys: ClientKeys | None) -> FakeWorker:
        worker: FakeWorker = self.peer(self.broker.backend, client_keys, FakeWorker)
        return worker

    def front(self, client_keys: ClientKeys | None) -> Peer:
        front: Peer = self.peer(self.broker.frontend, client_keys)
        return front

    def names(self) -> list[str]:
        return [worker.name for worker in self.broker.dispatcher.workers.values()]

    def close(self) -> None:
        self.broker.stop()
        self.thread.join()
        for peer in self.peers:
            peer.close()


def stays_unconnected(peer: Peer) -> bool:
    """Whether its socket has nobody to send to for a moment."""
    return not peer.socket.poll(int(1000 * MOMENT), zmq.POLLOUT)


def gets_connected(peer: Peer) -> bool:
    return bool(peer.socket.poll(int(1000 * PATIENCE), zmq.POLLOUT))
