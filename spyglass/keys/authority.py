"""Who may come in, and who may stay: the broker's side of its encrypted ports.

libzmq asks over ZAP (rfc.zeromq.org/spec/27) about the key of each new connection; pyzmq's
authenticator answers it in a thread of its own. Once a peer is in, each of its messages bears its
key as User-Id, and the broker's loop compares that with the list, which it reads again when it has
changed. If the thread is dead nobody new comes in: ZAP_ENFORCE_DOMAIN makes libzmq refuse what
nobody has allowed.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import zmq

from spyglass.keys.keyring import Keyring, Role
from spyglass.transport.credentials import FRONT_DOMAIN, WORKER_DOMAIN, Guard

if TYPE_CHECKING:
    from zmq.auth.thread import ThreadAuthenticator

#: Seconds between two looks whether the list has changed: a revoked key works that much longer.
LOOK_EVERY = 0.1


class GateDown(Exception):
    """The thread that answers ZAP has ended."""


class Gate:
    """Answers ZAP, and knows whose key is still on the list."""

    def __init__(self, keyring: Keyring) -> None:
        self.keyring = keyring
        self.next_look = 0.0
        self.allowed = keyring.allowed()
        self.authenticator: ThreadAuthenticator | None = None

    def open(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        """Start answering, before any port of this context is bound."""
        # Here, as it imports asyncio: a broker on loopback starts without.
        from zmq.auth.thread import ThreadAuthenticator

        quiet = logging.getLogger("zmq.auth")
        quiet.setLevel(logging.ERROR)
        self.authenticator = ThreadAuthenticator(context, log=quiet)
        self.authenticator.start()
        for domain in (WORKER_DOMAIN, FRONT_DOMAIN):
            self.authenticator.configure_curve_callback(domain, credentials_provider=self)

    def guard(self, domain: str) -> Guard:
        """What the port of this domain is to be told."""
        return Guard(self.keyring.secret, domain)

    def callback(self, domain: str, key: bytes) -> bool:
        """ZAP's question, in its thread. Reads the list if it has changed: a new key is good at
        once."""
        self.allowed.refresh()
        return self.admits(key.decode(), domain)

    def admits(self, public: str, domain: str) -> bool:
        """Whether this key (a User-Id) is on the list for this port."""
        entry = self.allowed.find(public)
        return entry is not None and entry.role.domain == domain

    def manages(self, public: str) -> bool:
        """Whether this key may change the fleet."""
        entry = self.allowed.find(public)
        return entry is not None and entry.role is Role.ADMIN

    def look(self, now: float) -> bool:
        """Read the list again if it is time and it has changed; whether it was time.

        Raises:
            GateDown: nobody answers ZAP any more, so nobody could ever join again.
        """
        if now < self.next_look:
            return False
        self.next_look = now + LOOK_EVERY
        if self.authenticator is None or not self.authenticator.is_alive():
            raise GateDown("the thread that checks keys has ended, so nobody could join any more")
        self.allowed.refresh()
        return True

    def close(self) -> None:
        """Stop answering."""
        authenticator, self.authenticator = self.authenticator, None
        if authenticator is None:
            return
        if not authenticator.is_alive():  # it would be told to end, and waited for without end
            authenticator.pipe.close(linger=0)
            authenticator.pipe = None  # type: ignore[assignment]
        authenticator.stop()
