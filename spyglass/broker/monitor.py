"""What could bring the broker down, told before it does: too much memory, too many connections,
messages that never end."""

from __future__ import annotations

import logging
from collections.abc import Callable

from spyglass.dispatcher.actions import Action
from spyglass.dispatcher.journal import Journal
from spyglass.runtime import memory
from spyglass.transport.endless import Endless
from spyglass.transport.peers import DropWatch
from spyglass.transport.socket_options import MAX_ANSWER_BYTES, MAX_MESSAGE_BYTES

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
#: Share of that limit below which it must fall before it is told of again.
RELIEVED = 0.9
#: Share of the open files allowed that connections may take before the event log says so.
CROWDED = 0.8


class Lookout:
    """Looks at the broker's own state, and tells the operator once each time it becomes bad."""

    def __init__(
        self,
        front: DropWatch,
        back: DropWatch,
        journal: Journal,
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
            kept: tells the bytes of all that was asked for and is not answered.
            may_wait: bytes of pictures that may wait.
            open_files: how many files this process may have open.
        """
        self.next_look = 0.0
        self._front = front
        self._back = back
        self._ports = Endless(front, MAX_MESSAGE_BYTES), Endless(back, MAX_ANSWER_BYTES)
        self._journal = journal
        self._clock = clock
        self._kept = kept
        self._open_files = open_files
        self._crowded = False
        self._held = memory.held()  # the least since the last look at the connections
        self._next_connections = float("-inf")
        self._memory_limit = self._held + may_wait + MEMORY_ROOM
        self._heavy = False

    def look(self, now: float) -> list[Action]:
        """Due at `next_look`, when all that waits was read: cut whoever floods us, and weigh
        ourselves."""
        held = memory.held()
        grows = held >= self._held + GROWTH
        if grows or now >= self._next_connections:
            self._held = held
            self._next_connections = now + CONNECTIONS_INTERVAL
            self._look_at_connections()
            self._weigh(held, now)
        else:
            self._held = min(self._held, held)
        took = self._clock() - now
        self.next_look = now + max(GROWING_INTERVAL if grows else LOOK_INTERVAL, took / LOOK_SHARE)
        return self._journal.flush()

    def _look_at_connections(self) -> None:
        taken = memory.allocated() - self._kept()
        for port in self._ports:
            for place in port.cut(taken):
                log.warning("cut a connection whose message never ends: %s", place)

    def _weigh(self, held: int, now: float) -> None:
        heavy = held > self._memory_limit * (RELIEVED if self._heavy else 1)
        if heavy and not self._heavy:
            what = f"this broker takes {held / 1e6:.0f} MB of memory, more than all it may let wait"
            advice = "if one sender floods it, shut it out: python keys.py revoke NAME"
            self._journal.log_event(f"{what}; {advice}", now)
        self._heavy = heavy

    def count_connections(self, now: float) -> list[Action]:
        """Due when some came or went: tell before no more can come."""
        connections = self._front.connections + self._back.connections
        crowded = connections > CROWDED * self._open_files
        if crowded and not self._crowded:
            what = f"{connections} connections are open, and {self._open_files} files are allowed"
            advice = "raise the limit (ulimit -n) before no more can join"
            self._journal.log_event(f"{what}; {advice}", now)
        self._crowded = crowded
        return self._journal.flush()
