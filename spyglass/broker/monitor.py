"""Watches what could bring the broker down: too much memory, too many connections, messages that
never end."""

from __future__ import annotations

import logging
from collections.abc import Callable

from spyglass.runtime import memory
from spyglass.runtime.commands import command
from spyglass.transport.peers import PeerTracker
from spyglass.transport.socket_options import MAX_ANSWER_BYTES, MAX_MESSAGE_BYTES
from spyglass.transport.unfinished import UnfinishedMessages

log = logging.getLogger(__name__)

#: Seconds between two looks at our own memory, and while it grows: a flood fills 0.3 MB in a
#: millisecond.
LOOK_INTERVAL, GROWING_INTERVAL = 0.1, 0.025
#: Bytes it must have grown by for a look at the connections, which costs 2 us for each, and seconds
#: between two such looks else.
GROWTH, CONNECTIONS_INTERVAL = 4 * 1024 * 1024, 1.0
#: Share of the broker's time that looks may take.
LOOK_SHARE = 0.05
#: Bytes this broker may take beyond what it had at the start and what may wait, before the event
#: log says so: pictures that workers hold, and messages not whole yet.
MEMORY_ROOM = 128 * 1024 * 1024
#: Share of that limit below which it must fall before the event log says so again.
RELIEVED = 0.9
#: Share of the open files allowed that connections may take before the event log says so.
CROWDED = 0.8


class HealthMonitor:
    """Looks at the broker's own state, and returns a line for the event log each time it becomes
    bad."""

    def __init__(
        self,
        front: PeerTracker,
        back: PeerTracker,
        clock: Callable[[], float],
        kept: Callable[[], int],
        may_wait: int,
        open_files: int,
    ) -> None:
        """To be made before there is any work.

        Args:
            front: the connections of clients.
            back: the connections of workers.
            clock: in seconds, monotonic.
            kept: returns the bytes that the open requests take.
            may_wait: bytes of pictures that may wait.
            open_files: how many files this process may have open.
        """
        self.next_look = 0.0
        self._front = front
        self._back = back
        self._ports = (
            UnfinishedMessages(front, MAX_MESSAGE_BYTES),
            UnfinishedMessages(back, MAX_ANSWER_BYTES),
        )
        self._clock = clock
        self._kept = kept
        self._open_files = open_files
        self._crowded = False
        self._held = memory.held()  # the least since the last look at the connections
        self._next_connections = float("-inf")
        self._memory_limit = self._held + may_wait + MEMORY_ROOM
        self._heavy = False

    def look(self, now: float) -> list[str]:
        """Due at `next_look`, when all that waits was read: disconnect the peers that flood
        the broker, and look at the memory it takes. What the operator should know."""
        events: list[str] = []
        held = memory.held()
        grows = held >= self._held + GROWTH
        if grows or now >= self._next_connections:
            self._held = held
            self._next_connections = now + CONNECTIONS_INTERVAL
            self._look_at_connections()
            events = self._memory_events(held)
        else:
            self._held = min(self._held, held)
        took = self._clock() - now
        self.next_look = now + max(GROWING_INTERVAL if grows else LOOK_INTERVAL, took / LOOK_SHARE)
        return events

    def _look_at_connections(self) -> None:
        taken = memory.allocated() - self._kept()
        for port in self._ports:
            for place in port.disconnect_senders(taken):
                log.warning("cut a connection whose message never ends: %s", place)

    def _memory_events(self, held: int) -> list[str]:
        was_heavy = self._heavy
        self._heavy = held > self._memory_limit * (RELIEVED if was_heavy else 1)
        if self._heavy and not was_heavy:
            what = f"this broker takes {held / 1e6:.0f} MB of memory"
            what += ", more than its limit for waiting pictures"
            advice = f"if one sender floods it, revoke its key: {command('keys')} revoke NAME"
            return [f"{what}; {advice}"]
        return []

    def count_connections(self) -> list[str]:
        """Due when some came or went. What the operator should know before no more can come."""
        was_crowded = self._crowded
        connections = self._front.connections + self._back.connections
        self._crowded = connections > CROWDED * self._open_files
        if self._crowded and not was_crowded:
            what = f"{connections} connections are open, and {self._open_files} files are allowed"
            advice = "raise the limit (ulimit -n) before no more can join"
            return [f"{what}; {advice}"]
        return []
