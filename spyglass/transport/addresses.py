"""ZeroMQ addresses: which are valid, and which other machines can reach."""

from __future__ import annotations

import ipaddress
import socket

#: Hosts that mean every interface: a port can listen on them, but nobody can connect to them.
ANY_HOST = ("0.0.0.0", "[::]", "*")
#: An address reserved for documentation (RFC 5737). Nothing is sent to it: connecting a UDP socket
#: only makes the kernel choose the interface that leads to other networks.
REMOTE_ADDRESS = ("192.0.2.1", 9)


class AddressError(ValueError):
    """A text is not a ZeroMQ address. `str()` is a sentence that contains no secret."""


def address(text: str) -> str:
    """Check a ZeroMQ address such as tcp://127.0.0.1:5556, and return it unchanged.

    Raises:
        AddressError: it is not one.
    """
    scheme, _, rest = text.partition("://")
    host, _, port = rest.rpartition(":")
    good_port = port == "*" or (port.isascii() and port.isdigit() and int(port) <= 65535)
    if scheme == "tcp" and host and good_port:
        return text
    if scheme in ("ipc", "inproc") and rest:
        return text
    shown = text.partition("#")[0]  # the rest may be a secret
    raise AddressError(f"{shown!r} is not an address such as tcp://127.0.0.1:5556")


def beyond_loopback(address: str) -> bool:
    """Whether other machines may reach what listens at a ZeroMQ address; if unsure, yes."""
    scheme, _, where = address.partition("://")
    if scheme != "tcp":
        return False
    host = where.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True


def address_for_peers(address: str, host: str) -> str:
    """The address that peers connect to, for one that this machine, called `host`, listens on."""
    scheme, _, where = address.partition("://")
    name, _, port = where.rpartition(":")
    return f"tcp://{host}:{port}" if scheme == "tcp" and name in ANY_HOST else address


def own_host() -> str:
    """This machine's address on the network that leads to other machines, else its name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(REMOTE_ADDRESS)
        except OSError:
            return socket.gethostname()
        return str(probe.getsockname()[0])
