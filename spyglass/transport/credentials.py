"""Keys of encrypted connections: in addresses, and as socket options.

An address such as `tcp://10.0.0.5:5556#cwXZ...` names an encrypted port. The fragment, after the #,
is URL-safe base64, without padding, of two keys of 32 bytes each: the broker's public key, and a
secret key that was made for one worker or client. It is a secret: only `split_address` and
`ClientKeys` read it.

CURVE (rfc.zeromq.org/spec/26) encrypts, and proves both ends to each other. By ZAP (spec/27) the
broker asks its own list whether a peer's key is allowed (spyglass.keys).
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

#: ZAP domains, one for each of the two ports: a key is allowed in one of them.
WORKER_DOMAIN, FRONT_DOMAIN = "worker", "front"

#: What to do when keys do not match.
NEW_LINE = f"Print a new line on the broker's machine, with {command('keys')} join (or front)."
#: Why a broker refused the connection. Its address comes before this.
REFUSED = f"refuses this key: it was revoked, or is for its other port. {NEW_LINE}"


@dataclass(frozen=True, slots=True, repr=False)
class ClientKeys:
    """What a worker or client needs to connect to an encrypted port. Keys are in Z85
    (rfc.zeromq.org/spec/32), as libzmq takes them. No `repr`: secrets must not end up in a log."""

    broker: bytes  # the broker's public key
    secret: bytes  # our own

    @property
    def public(self) -> bytes:
        """Our public key, as in the broker's list."""
        return zmq.curve_public(self.secret)

    def text(self) -> str:
        """The fragment of an address."""
        keys = z85.decode(self.broker) + z85.decode(self.secret)
        return urlsafe_b64encode(keys).decode().rstrip("=")

    @classmethod
    def from_text(cls, text: str) -> ClientKeys:
        """The keys in a fragment.

        Raises:
            AddressError: it is not two keys; the message does not show it.
        """
        try:
            keys = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
        except (binascii.Error, UnicodeError):
            keys = b""
        if len(keys) != 2 * KEY_BYTES:
            raise AddressError(
                "the part of the address after the # is damaged; copy the whole line again,"
                f" in quotes, or print a new one with: {command('keys')} join"
            )
        return cls(z85.encode(keys[:KEY_BYTES]), z85.encode(keys[KEY_BYTES:]))

    def apply(self, socket: zmq.Socket[bytes]) -> None:
        """Make a socket that is not connected or bound yet talk to this broker only."""
        socket.setsockopt(zmq.CURVE_SERVERKEY, self.broker)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.secret)


@dataclass(frozen=True, slots=True, repr=False)
class ServerKeys:
    """What a broker's port needs to accept only peers whose keys ZAP allows."""

    secret: bytes  # the broker's, in Z85
    domain: str

    def apply(self, socket: zmq.Socket[bytes]) -> None:
        """Encrypt a socket that is not bound yet. Without a ZAP handler it accepts nobody."""
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.secret)
        socket.setsockopt(zmq.ZAP_DOMAIN, self.domain.encode())
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)


def split_address(text: str) -> tuple[str, ClientKeys | None]:
    """An address without its fragment, which is all that may be shown, and the keys in that.

    Raises:
        AddressError: it is not an address, or its fragment is damaged.
    """
    place, mark, fragment = text.partition("#") if text.startswith("tcp://") else (text, "", "")
    return address(place), ClientKeys.from_text(fragment) if mark else None


def address_with_keys(text: str) -> str:
    """Check an address with or without keys, and return it unchanged; for `type=` of argparse."""
    split_address(text)
    return text


def add_keys(place: str, keys: ClientKeys) -> str:
    """The address with its keys, which are a secret, as its fragment."""
    return f"{place}#{keys.text()}"


def no_answer_text(place: str, keys: ClientKeys | None, handshake_failed: bool) -> str:
    """A sentence about a broker that does not answer.

    Args:
        handshake_failed: whether something there accepted a connection, and then closed it.
    """
    text = f"No broker answers at {place}. Is {prog('broker')} running there?"
    if handshake_failed:
        other = "other keys, or none" if keys is not None else "keys, and this address has none"
        text += f" Something there closes our connections. If it is a broker, it has {other}."
        text += f" {NEW_LINE}"
    return text


def curve_missing() -> str:
    """A sentence on why connections cannot be encrypted here, or an empty string."""
    if zmq.has("curve"):
        return ""
    return (
        "this libzmq was built without CURVE, so it cannot encrypt;"
        " install pyzmq from its wheel: pip install --force-reinstall pyzmq"
    )
