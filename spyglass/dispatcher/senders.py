"""Which connections sent an open request: the youngest of them gets the answer.

A client that lost its connection sends what it waits for again, over its next one. What it had sent
over the old one may be read later than that: a broker that was stopped finds both at once, and the
end of the old connection after them. So the age of the connections decides, not the order in which
the copies are read.

Part of the dispatcher: no I/O, no clock.
"""

from __future__ import annotations

from bisect import insort
from collections import defaultdict
from typing import NamedTuple


class Connection(NamedTuple):
    """A client's connection. They sort by age, the youngest last."""

    made: int  # the later it was made, the higher
    client: bytes  # its address; of two made at the same time, the greater one is the younger


class Senders:
    """The connections that sent one request and, as far as is known, have not ended."""

    __slots__ = ("_by_age",)

    def __init__(self, first: Connection) -> None:
        self._by_age = [first]

    def __contains__(self, client: bytes) -> bool:
        return any(connection.client == client for connection in self._by_age)

    def __len__(self) -> int:
        return len(self._by_age)

    @property
    def youngest(self) -> bytes:
        """Where the answer goes."""
        return self._by_age[-1].client

    @property
    def others(self) -> tuple[bytes, ...]:
        """The others, the youngest first."""
        return tuple(connection.client for connection in self._by_age[-2::-1])

    def add(self, connection: Connection) -> None:
        """It sent the request as well."""
        if connection.client not in self:
            insort(self._by_age, connection)

    def remove(self, client: bytes) -> None:
        """It no longer waits for the request, but others do."""
        self._by_age = [each for each in self._by_age if each.client != client]


class Waiting:
    """The requests that each client waits for, by their ids."""

    def __init__(self) -> None:
        # In the order they came, so that the same history cancels them in the same order.
        self._requests: defaultdict[bytes, dict[bytes, None]] = defaultdict(dict)

    def of(self, client: bytes) -> list[bytes]:
        """What this client waits for."""
        return list(self._requests.get(client, ()))

    def add(self, client: bytes, request_id: bytes) -> None:
        """It waits for this as well."""
        self._requests[client][request_id] = None

    def remove(self, client: bytes, request_id: bytes) -> None:
        """It no longer waits for this."""
        requests = self._requests[client]
        requests.pop(request_id, None)
        if not requests:
            del self._requests[client]
