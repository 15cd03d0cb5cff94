"""A fleet both of whose ports are encrypted, and the keys to it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from spyglass.client.thread_client import BrokerClient
from spyglass.keys.keyring import Keyring, Role
from spyglass.transport.credentials import add_keys
from testbed.fleet import Fleet


class EncryptedFleet(Fleet):
    """A broker whose both ports are encrypted, and the keys to it."""

    def __init__(self, folder: Path) -> None:
        """`folder` is made, for the keys."""
        self.keyring = Keyring.create(folder)
        super().__init__()
        self.client.close()  # a plain one would only be refused
        self.client = BrokerClient([self.address_for(Role.ADMIN, "tester")])

    def address_for(self, role: Role, name: str = "", at: str = "") -> str:
        """An address with a secret of its own."""
        _, client_keys = self.keyring.issue(role, name)
        return add_keys(at or (self.backend if role is Role.WORKER else self.frontend), client_keys)

    def start_broker(self, *flags: str, **options: Any) -> subprocess.Popen[bytes]:
        keys = ["--keys", str(self.keyring.folder), "--encrypt", "always"]
        return super().start_broker(*flags, *keys, **options)

    def start_worker(self, name: str, *flags: str, **options: Any) -> subprocess.Popen[bytes]:
        return super().start_worker(name, *flags, at=self.address_for(Role.WORKER, name), **options)
