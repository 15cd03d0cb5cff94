"""Who may change the fleet, and by which host names the web may be called.

A page of another site must never act through an operator's browser: neither across origins (CSRF)
nor under a name of its own that resolves to this server (DNS rebinding). So the Host of every
request is checked, of an action the Origin too, and beyond loopback an action needs the admin
token.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from urllib.parse import urlsplit

from spyglass.runtime.commands import command, prog
from spyglass.web.http import problems
from spyglass.web.http.token import MAX_GUESSES, Guesses

log = logging.getLogger(__name__)

#: Paths for health probes. These may use any Host, and nothing there is secret.
HEALTH = frozenset(
    ("/livez", "/readyz", "/healthz", "/ping", "/v2/health/live", "/v2/health/ready")
)
#: Headers that a proxy adds: behind one, a connection from loopback may come from anywhere.
PROXY_HEADERS = ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip")

HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::[0-9]{0,5})?", re.IGNORECASE)


class Guard:
    """Decides by a request's headers and sender. Safe to use from several threads.

    Args:
        bound: the host the web listens on.
        allowed: other names it is reached by, each with or without a port.
        token: the admin token that an action must bring; "" if there is none.
        clock: gives the time in seconds, monotonic.
    """

    def __init__(
        self,
        bound: str = "127.0.0.1",
        allowed: Sequence[str] = (),
        token: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._origins = {name.lower() for name in allowed}
        own = {hostname(name) for name in (bound, *allowed)}
        self._names = (own | {"localhost", socket.gethostname().lower()}) - {""}
        self._loopback_only = is_loopback(hostname(bound)) and not allowed
        self._token = token.encode()
        self._clock = clock
        self._guesses = Guesses()
        self._lock = threading.Lock()
        self._is_own_name = lru_cache(256)(
            self._compare_name
        )  # few are ever seen, and each very often

    def check_host(self, host: str, path: str) -> None:
        """Refuse a request whose Host is not one of this server's names.

        A browser that another site's DNS has sent here sends that site's name. DNS plays no part
        in numeric addresses, and a client without any Host is not a browser.

        Raises:
            problems.Problem: 403.
        """
        if host and path not in HEALTH and not self._is_own_name(host):
            raise problems.forbidden(
                "The name in the request's Host is not one of this server's. If it should be,"
                f" start {prog('web')} with --allowed-host and that name."
            )

    def check_action(
        self, method: str, headers: Mapping[str, str], peer: str, protocol: str
    ) -> None:
        """Refuse an action that its sender may not do.

        Args:
            method: POST or DELETE.
            headers: of the request.
            peer: the address of the connection's other end, never one from a header.
            protocol: of the request, such as HTTP/1.1.

        Raises:
            problems.Problem: 403 from another site's page or where no token is set, 415 for a form,
                401 without the right token, 429 after too many wrong ones.
        """
        self._refuse_other_origins(headers)
        if method == "POST" and not is_json(headers.get("Content-Type", "")):
            raise problems.unsupported("Send JSON, with Content-Type: application/json.")
        if self._token:
            self._check_token(headers.get("Authorization", ""), client_network(peer))
        elif not (self._loopback_only and self._from_this_machine(headers, peer, protocol)):
            raise problems.forbidden(
                f"This needs an admin token, and the web has none. Make one with {command('keys')}"
                f" init, or name its file with {prog('web')} --admin-token-file, and start the web"
                " again."
            )

    def _refuse_other_origins(self, headers: Mapping[str, str]) -> None:
        host = headers.get("Host", "")
        origin = headers.get("Origin", "")
        site = headers.get("Sec-Fetch-Site", "same-origin")
        try:
            named = urlsplit(origin).netloc.lower()
        except ValueError:  # not an address, such as http://[x
            named = ""
        # A proxy may have set its own Host, but Origin has the name that the browser was given.
        own = not origin or named in self._origins | {host.lower() or "?"}
        if not own or site not in ("same-origin", "none"):
            raise problems.forbidden("This action must come from Spyglass's own page.")

    def _from_this_machine(self, headers: Mapping[str, str], peer: str, protocol: str) -> bool:
        # Browsers and curl speak HTTP/1.1; a proxy that adds no header often speaks 1.0.
        proxied = protocol != "HTTP/1.1" or any(headers.get(name) for name in PROXY_HEADERS)
        return not proxied and all(map(is_loopback, (peer, hostname(headers.get("Host", "")))))

    def _check_token(self, authorization: str, address: str) -> None:
        scheme, _, named = authorization.partition(" ")
        offered = named.strip() if scheme.lower() == "bearer" else ""
        with self._lock:
            now = self._clock()
            if wait := self._guesses.wait(address, now):
                raise problems.too_many_guesses(wait)
            right = secrets.compare_digest(offered.encode(errors="replace"), self._token)
            if not right and offered:
                self._guesses.add(address, now)
                if self._guesses.wait(address, now):
                    log.warning("%s wrong admin tokens from %s; it must wait", MAX_GUESSES, address)
        if not right:
            raise problems.unauthorized("This needs the admin token.")

    def _compare_name(self, host: str) -> bool:
        name = hostname(host)
        return name in self._names or is_numeric(name)


# --- names and addresses ----------------------------------------------------------------------


def hostname(host: str) -> str:
    """The name or address in a Host header, in lower case and without port; "" if it is none."""
    if ":" in host and is_numeric(host):  # an IPv6 address as the command line has it
        return host.lower()
    found = HOST.fullmatch(host)
    return (found[1] or found[2]).lower().removesuffix(".") if found else ""


def is_numeric(name: str) -> bool:
    """Whether this is an IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(name: str) -> bool:
    """Whether only this machine is reached by that name."""
    if not is_numeric(name):
        return name == "localhost"
    address = ipaddress.ip_address(name)
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def client_network(peer: str) -> str:
    """What limits for each client count by: an IPv4 address, or the /64 network of an IPv6 one, as
    a client usually has all of it. "" for what is no address, so that made-up texts fill neither
    the memory nor the log."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return ""
    if address.version == 4:
        return peer
    if mapped := address.ipv4_mapped:
        return str(mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))


def is_json(content_type: str) -> bool:
    """Whether a body is announced as JSON, which no form can send."""
    return content_type.partition(";")[0].strip().lower() == "application/json"
