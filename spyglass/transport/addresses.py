"""ZeroMQ addresses: which are legal, whether others reach them, and how others name them."""

from __future__ import annotations

import ipaddress
import socket

#: Hosts a port listens on that are nobody's to connect to.
ANY_HOST = ("0.0.0.0", "[::]", "*")
#: An address for documentation (RFC 5737): nothing is sent to it, only the way there looked up.
ELSEWHERE = ("192.0.2.1", 9)


class AddressError(ValueError):
    """What should be a ZeroMQ address is none; `str()` is a sentence that shows no secret."""


def address(text: str) -> str:
    """A ZeroMQ address such as tcp://127.0.0.1:5556, as it was given.

    Raises:
        AddressError: it is none.
    """
    scheme, _, rest = text.partition("://")
    host, _, port = rest.rpartition(":")
    good_port = port == "*" or (port.isascii() and port.isdigit() and int(port) <= 65535)
    if scheme == "tcp" and host and good_port:
        return text
    if scheme in ("ipc", "inproc") and rest:
        return text
    shown = text.partition("#")[0]  # what stands behind it may be a secret
    raise AddressError(f"{shown!r} is not an address such as tcp://127.0.0.1:5556")


def beyond_loopback(address: str) -> bool:
    """Whether other machines may reach what listens at a ZeroMQ address. In doubt they may."""
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
    """The address to connect to for one that is listened on, `host` being this machine."""
    scheme, _, where = address.partition("://")
    name, _, port = where.rpartition(":")
    return f"tcp://{host}:{port}" if scheme == "tcp" and name in ANY_HOST else address


def own_host() -> str:
    """This machine's address on the network it reaches others by, or its name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(ELSEWHERE)
        except OSError:
            return socket.gethostname()
        return str(probe.getsockname()[0])
