"""Who may come in, and who may stay: the broker's side of its encrypted ports.

libzmq asks over ZAP (rfc.zeromq.org/spec/27) about the key of each new connection, and a thread of
its own answers. Once a peer is in, each of its messages bears its key as User-Id, and the broker's
loop compares that with the list, which it reads again when it has changed. If the thread is dead
nobody new comes in: ZAP_ENFORCE_DOMAIN makes libzmq refuse what nobody has allowed.

The answer also gives the connection its routing id, at random. A peer may bring one of its own, and
libzmq would take it: whoever guesses the one that libzmq makes next ends the process by it, since
libzmq asserts that it is free. An id in a reply of ZAP replaces the peer's if it is read later
(`Handshakes`). pyzmq's own authenticator (zmq.auth) puts nothing into a reply.
"""

from __future__ import annotations

import logging
import os
import secrets
import struct
import threading
from functools import partial

import zmq
from zmq.utils import z85

from spyglass.keys.keyring import Keyring, Role
from spyglass.transport.credentials import FRONT_DOMAIN, WORKER_DOMAIN, Guard
from spyglass.transport.socket_options import PLAIN_DOMAIN
from spyglass.transport.waker import Waker

log = logging.getLogger(__name__)

#: Seconds between two looks whether the list has changed: a revoked key works that much longer.
REFRESH_INTERVAL = 0.1
#: Where libzmq asks, in every context.
ZAP_ENDPOINT = "inproc://zeromq.zap.01"
#: Bytes of a routing id that we give: nobody guesses one, and no two are the same by chance.
ROUTING_ID_BYTES = 16
#: What stands before a routing id among a reply's properties (ZMTP 3.0, "metadata").
_IDENTITY = b"\x08Identity" + struct.pack("!I", ROUTING_ID_BYTES)
#: ZAP's words for: come in; stay out; we are at fault.
_ADMITTED, _REFUSED, _FAILED = b"200", b"400", b"500"


class AuthorityStopped(Exception):
    """The thread that answers ZAP has ended."""


class Handshakes:
    """Waits until libzmq has read what a peer brought along.

    It asks ZAP just before it reads that, and takes an answer that is quicker first: then the
    peer's routing id would replace ours. All connections of a context are served by one thread of
    libzmq, so a message that goes through that thread and comes back proves that it is done. The
    way is a socket of Linux without a file, that takes connections of this process only.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self._there = context.socket(zmq.PAIR)
        self._there.setsockopt(zmq.IPC_FILTER_PID, os.getpid())
        place = f"ipc://@spyglass-{secrets.token_hex(8)}"
        self._there.bind(place)
        self._here = context.socket(zmq.PAIR)
        self._here.connect(place)

    def wait(self) -> None:
        """Return when all that libzmq had begun to read is read."""
        self._here.send(b"")
        self._there.recv()

    def close(self) -> None:
        self._here.close(linger=0)
        self._there.close(linger=0)


class KeyAuthority:
    """Answers ZAP, and knows whose key is still on the list."""

    def __init__(self, keyring: Keyring) -> None:
        self.keyring = keyring
        self.next_refresh = 0.0
        self.allowed = keyring.allowed()
        self._thread: threading.Thread | None = None
        self._closing = False

    def open(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        """Start answering, before any port of this context is bound. It has one I/O thread."""
        asked = context.socket(zmq.REP)
        asked.bind(ZAP_ENDPOINT)
        self._waker = Waker()
        serve = partial(self._serve, asked, Handshakes(context))
        self._thread = threading.Thread(target=serve, name="zap", daemon=True)
        self._thread.start()

    def guard(self, domain: str) -> Guard:
        """What the port of this domain is to be told."""
        return Guard(self.keyring.secret, domain)

    def allows(self, public: str, domain: str) -> bool:
        """Whether this key (a User-Id) is on the list for this port."""
        entry = self.allowed.find(public)
        return entry is not None and entry.role.domain == domain

    def is_admin(self, public: str) -> bool:
        """Whether this key may change the fleet."""
        entry = self.allowed.find(public)
        return entry is not None and entry.role is Role.ADMIN

    def refresh_if_due(self, now: float) -> bool:
        """Read the list again if it is time and it has changed; whether it was time.

        Raises:
            AuthorityStopped: nobody answers ZAP any more, so nobody could ever join again.
        """
        if now < self.next_refresh:
            return False
        self.next_refresh = now + REFRESH_INTERVAL
        if self._thread is None or not self._thread.is_alive():
            raise AuthorityStopped(
                "the thread that checks keys has ended, so nobody could join any more"
            )
        self.allowed.refresh()
        return True

    def close(self) -> None:
        """Stop answering, once and for all."""
        if self._thread is not None:
            self._closing = True
            self._waker.wake()
            self._thread.join()
            self._waker.close()

    # --- the thread ---------------------------------------------------------------------------

    def _serve(self, asked: zmq.Socket[bytes], handshakes: Handshakes) -> None:
        poller = zmq.Poller()
        poller.register(asked, zmq.POLLIN)
        poller.register(self._waker.fileno(), zmq.POLLIN)
        try:
            while not self._closing:
                if asked in dict(poller.poll()):
                    reply = self._reply(asked.recv_multipart())
                    handshakes.wait()
                    asked.send_multipart(reply)
        finally:
            handshakes.close()
            asked.close(linger=0)

    def _reply(self, question: list[bytes]) -> list[bytes]:
        """To what libzmq asks of a connection: version, number, domain, address, our own routing
        id, mechanism, and with CURVE a key."""
        version, number, domain, _, _, mechanism, *credentials = question
        try:
            user = self._user(domain.decode(), mechanism, credentials)
        except Exception:  # whatever it is: the next one may come in
            log.exception("cannot tell who asks to come in, so he is refused")
            return [version, number, _FAILED, b"", b"", b""]
        if user is None:
            return [version, number, _REFUSED, b"NO ACCESS", b"", b""]
        identity = _IDENTITY + os.urandom(ROUTING_ID_BYTES) if user else b""
        return [version, number, _ADMITTED, b"OK", user, identity]

    def _user(self, domain: str, mechanism: bytes, credentials: list[bytes]) -> bytes | None:
        """The User-Id of whoever asks to come in, empty on a plain port; None if he may not. Reads
        the list if it has changed: a new key is good at once."""
        if mechanism == b"NULL" and domain == PLAIN_DOMAIN.decode():
            return b""  # asked where the other port is encrypted
        if mechanism != b"CURVE" or domain not in (FRONT_DOMAIN, WORKER_DOMAIN):
            return None
        public = z85.encode(*credentials)
        self.allowed.refresh()
        return public if self.allows(public.decode(), domain) else None
