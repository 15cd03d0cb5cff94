"""Which keys may connect to the broker's encrypted ports, and which stay connected.

libzmq asks about the key of each new connection over ZAP (rfc.zeromq.org/spec/27), and a thread of
this module replies. Afterwards each message of the peer carries its key as User-Id, and the
broker's loop checks that against the list of allowed keys, which is read again when its file has
changed. If the thread has ended, no connection is accepted: with ZAP_ENFORCE_DOMAIN libzmq refuses
what no reply has allowed.

The reply also sets the connection's routing id, at random. A peer may send one of its own choice,
which libzmq would use; and since libzmq asserts that the ids it generates are free, a peer that
guesses the next one could end the process. An id in the ZAP reply replaces the peer's, provided
that libzmq reads the reply later (see `Handshakes`). pyzmq's own authenticator (zmq.auth) cannot
put an id into a reply.
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
from spyglass.transport.credentials import FRONT_DOMAIN, WORKER_DOMAIN, ServerKeys
from spyglass.transport.socket_options import PLAIN_DOMAIN
from spyglass.transport.waker import Waker

log = logging.getLogger(__name__)

#: Seconds between two checks whether the list has changed: a revoked key stays valid that long.
REFRESH_INTERVAL = 0.1
#: The endpoint where libzmq sends its ZAP requests, the same in every context.
ZAP_ENDPOINT = "inproc://zeromq.zap.01"
#: Bytes of a routing id that we set: 128 random bits cannot be guessed, nor repeat by chance.
ROUTING_ID_BYTES = 16
#: A routing id as metadata of a ZAP reply: the property's name, and the length of its value.
_IDENTITY = b"\x08Identity" + struct.pack("!I", ROUTING_ID_BYTES)
#: ZAP's status codes: success, authentication failure, internal error.
_ALLOWED, _REFUSED, _FAILED = b"200", b"400", b"500"


class AuthorityStopped(Exception):
    """The thread that replies to ZAP requests has ended."""


class Handshakes:
    """Waits until libzmq has read the metadata that a peer sent in its handshake.

    libzmq sends the ZAP request just before it reads them. If it got the reply first, the peer's
    routing id would replace ours. One thread of libzmq serves all connections of a context, so a
    message that has passed through that thread proves that the reading is done. The message goes
    through an abstract Unix socket, which accepts connections of this process only.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self._receiver = context.socket(zmq.PAIR)
        self._receiver.setsockopt(zmq.IPC_FILTER_PID, os.getpid())
        endpoint = f"ipc://@spyglass-{secrets.token_hex(8)}"
        self._receiver.bind(endpoint)
        self._sender = context.socket(zmq.PAIR)
        self._sender.connect(endpoint)

    def wait(self) -> None:
        """Return once libzmq has read everything that it had begun to read."""
        self._sender.send(b"")
        self._receiver.recv()

    def close(self) -> None:
        self._sender.close(linger=0)
        self._receiver.close(linger=0)


class KeyAuthority:
    """Replies to ZAP requests, and knows which keys are allowed at present."""

    def __init__(self, keyring: Keyring) -> None:
        self.keyring = keyring
        self.next_refresh = 0.0
        self.allowed = keyring.allowed()
        self._thread: threading.Thread | None = None
        self._closing = False

    def open(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        """Start to reply. To be called before any port of this context is bound; the context must
        have a single I/O thread."""
        requests = context.socket(zmq.REP)
        requests.bind(ZAP_ENDPOINT)
        self._waker = Waker()
        serve = partial(self._serve, requests, Handshakes(context))
        self._thread = threading.Thread(target=serve, name="zap", daemon=True)
        self._thread.start()

    def server_keys(self, domain: str) -> ServerKeys:
        """The socket options of the port of this domain."""
        return ServerKeys(self.keyring.secret, domain)

    def allows(self, public: str, domain: str) -> bool:
        """Whether this key (a User-Id) is allowed on the port of this domain."""
        entry = self.allowed.find(public)
        return entry is not None and entry.role.domain == domain

    def is_admin(self, public: str) -> bool:
        """Whether this key may change the fleet."""
        entry = self.allowed.find(public)
        return entry is not None and entry.role is Role.ADMIN

    def refresh_if_due(self, now: float) -> bool:
        """Read the list again if it is time and it has changed; returns whether it was time.

        Raises:
            AuthorityStopped: the thread has ended, so no connection would be accepted any more.
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
        """Stop replying, for good."""
        if self._thread is not None:
            self._closing = True
            self._waker.wake()
            self._thread.join()
            self._waker.close()

    # --- the thread ---------------------------------------------------------------------------

    def _serve(self, requests: zmq.Socket[bytes], handshakes: Handshakes) -> None:
        poller = zmq.Poller()
        poller.register(requests, zmq.POLLIN)
        poller.register(self._waker.fileno(), zmq.POLLIN)
        try:
            while not self._closing:
                if requests in dict(poller.poll()):
                    reply = self._reply(requests.recv_multipart())
                    handshakes.wait()
                    requests.send_multipart(reply)
        finally:
            handshakes.close()
            requests.close(linger=0)

    def _reply(self, request: list[bytes]) -> list[bytes]:
        """The reply to a request: version, request id, domain, address, our own routing id,
        mechanism, and with CURVE a key."""
        version, request_id, domain, _, _, mechanism, *credentials = request
        try:
            user = self._user(domain.decode(), mechanism, credentials)
        except Exception:  # a fault here must not end the thread: then nobody could connect
            log.exception("cannot check the key of a connection, so it is refused")
            return [version, request_id, _FAILED, b"", b"", b""]
        if user is None:
            return [version, request_id, _REFUSED, b"NO ACCESS", b"", b""]
        identity = _IDENTITY + os.urandom(ROUTING_ID_BYTES) if user else b""
        return [version, request_id, _ALLOWED, b"OK", user, identity]

    def _user(self, domain: str, mechanism: bytes, credentials: list[bytes]) -> bytes | None:
        """The User-Id of the peer, empty on a plain port; None if it is refused. The list is read
        again if it has changed, so that a new key is valid at once."""
        if mechanism == b"NULL" and domain == PLAIN_DOMAIN.decode():
            return b""  # libzmq asks about plain ports too if the other port is encrypted
        if mechanism != b"CURVE" or domain not in (FRONT_DOMAIN, WORKER_DOMAIN):
            return None
        public = z85.encode(*credentials)
        self.allowed.refresh()
        return public if self.allows(public.decode(), domain) else None
