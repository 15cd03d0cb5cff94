"""Encrypted connections: what stands behind the # of an address, and what sockets are told of it.

An address such as `tcp://10.0.0.5:5556#cwXZ...` names an encrypted port. What stands behind the #
is URL-safe base64, without padding, of the broker's public key and of the secret key made for this
way in, 32 bytes each. It is a secret: only `split` and `ClientKeys.text` ever see it.

CURVE (rfc.zeromq.org/spec/26) encrypts and proves both ends to each other; ZAP (spec/27) asks the
broker's own list whether a peer's key may come in (spyglass.keys).
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass

import zmq
from zmq.utils import z85

from spyglass.runtime.commands import command, prog
from spyglass.transport.addresses import AddressError, address

#: Bytes of a CURVE key.
KEY_BYTES = 32

#: Whom a port lets in: ZAP's word for it, one for each of the two ports.
WORKER_DOMAIN, FRONT_DOMAIN = "worker", "front"

#: What to do when keys do not fit.
NEW_LINE = f"Print a new line on the broker's machine, with {command('keys')} join (or front)."
#: What a broker does that lets us not in; its address stands before it.
REFUSED = f"refuses this key: it was revoked, or is for its other port. {NEW_LINE}"


@dataclass(frozen=True, slots=True, repr=False)
class ClientKeys:
    """What a worker or client needs to come in. Keys in Z85 (rfc.zeromq.org/spec/32), as libzmq
    takes them. No `repr`: the secret must not end in a log."""

    broker: bytes  # the broker's public key
    secret: bytes  # our own

    @property
    def public(self) -> bytes:
        """Our public key, as the broker's list has it."""
        return zmq.curve_public(self.secret)

    def text(self) -> str:
        """As it stands behind the # of an address."""
        keys = z85.decode(self.broker) + z85.decode(self.secret)
        return urlsafe_b64encode(keys).decode().rstrip("=")

    @classmethod
    def read(cls, text: str) -> ClientKeys:
        """The keys in what stands behind the #.

        Raises:
            AddressError: it is not two keys; the message does not show it.
        """
        try:
            keys = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
        except (binascii.Error, UnicodeError):
            keys = b""
        if len(keys) != 2 * KEY_BYTES:
            raise AddressError(
                "what stands behind the # of the address is damaged; copy the whole line again,"
                f" in quotes, or print a new one with: {command('keys')} join"
            )
        return cls(z85.encode(keys[:KEY_BYTES]), z85.encode(keys[KEY_BYTES:]))

    def apply(self, socket: zmq.Socket[bytes]) -> None:
        """Make a socket, not yet connected or bound, speak to this broker only."""
        socket.setsockopt(zmq.CURVE_SERVERKEY, self.broker)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.secret)


@dataclass(frozen=True, slots=True, repr=False)
class ServerKeys:
    """What a broker's port needs to let in only whom ZAP allows."""

    secret: bytes  # the broker's, in Z85
    domain: str

    def apply(self, socket: zmq.Socket[bytes]) -> None:
        """Make a socket, not yet bound, encrypted. Without a ZAP handler it lets nobody in."""
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.secret)
        socket.setsockopt(zmq.ZAP_DOMAIN, self.domain.encode())
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)


def split_address(text: str) -> tuple[str, ClientKeys | None]:
    """An address without its secret, which is all that may be shown, and the keys.

    Raises:
        AddressError: no address, or what stands behind the # is damaged.
    """
    place, mark, keys = text.partition("#") if text.startswith("tcp://") else (text, "", "")
    return address(place), ClientKeys.read(keys) if mark else None


def address_with_keys(text: str) -> str:
    """An address, with or without a secret, for `type=`."""
    split_address(text)
    return text


def add_keys(place: str, keys: ClientKeys) -> str:
    """The address with its secret."""
    return f"{place}#{keys.text()}"


def no_answer_text(place: str, keys: ClientKeys | None, met: bool) -> str:
    """A sentence on a broker that does not answer, `met` if something there takes connections and
    ends them."""
    text = f"No broker answers at {place}. Is {prog('broker')} running there?"
    if met:
        kind = "other keys, or none" if keys is not None else "keys, and this address has none"
        text += f" What is there ends our connections: if it is a broker, it has {kind}. {NEW_LINE}"
    return text


def curve_missing() -> str:
    """Why connections cannot be encrypted here, or nothing."""
    if zmq.has("curve"):
        return ""
    return (
        "this libzmq was built without CURVE, so it cannot encrypt;"
        " install pyzmq from its wheel: pip install --force-reinstall pyzmq"
    )
