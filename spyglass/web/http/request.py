"""An HTTP request as an ASGI server passes it on: its head, and its body while it arrives."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

Message: TypeAlias = MutableMapping[str, Any]
Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


class ClientDisconnected(Exception):
    """Whoever asked has closed the connection: nobody is there to be answered."""


class Request:
    """One HTTP request: its head, and its body as it arrives."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        self.query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
        self.args: dict[str, str] = {}  # what stands in its path where the rule has <names>
        self._receive = receive

    @property
    def wants_html(self) -> bool:
        """Whether a person with a browser asks."""
        return "text/html" in self.headers.get(b"accept", "")

    async def next_part(self) -> tuple[bytes, bool]:
        """Some bytes of the body, and whether more will come."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        return message.get("body", b""), message.get("more_body", False)

    async def disconnected(self) -> None:
        """Wait, the body being read, until whoever asked closes the connection."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
