"""What could bring the broker down, told before it does: too much memory, too many connections,
messages that never end."""

from __future__ import annotations

import logging

from spyglass.dispatcher.actions import Action
from spyglass.dispatcher.journal import Record
from spyglass.runtime import memory
from spyglass.transport.sockets import DropWatch

log = logging.getLogger(__name__)

#: Seconds between two looks for messages that never end, and at our own memory.
LOOK_INTERVAL = 1.0
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
        self, front: DropWatch, back: DropWatch, record: Record, may_wait: int, open_files: int
    ) -> None:
        """To be made before there is any work.

        Args:
            front: the connections of clients.
            back: the connections of workers.
            may_wait: bytes of pictures that may wait.
            open_files: how many files this process may have open.
        """
        self.next_look = float("-inf")
        self._front = front
        self._back = back
        self._record = record
        self._open_files = open_files
        self._crowded = False
        self._memory_limit = memory.held() + may_wait + MEMORY_ROOM
        self._heavy = False

    def look(self, now: float) -> list[Action]:
        """Due at `next_look`: cut whoever floods us, and weigh ourselves."""
        self.next_look = now + LOOK_INTERVAL
        for watch in (self._front, self._back):
            for address in watch.cut_endless():
                log.warning("cut a connection whose message never ends: %s", address)
        self._weigh(now)
        return self._record.flush()

    def _weigh(self, now: float) -> None:
        held = memory.held()
        heavy = held > self._memory_limit * (RELIEVED if self._heavy else 1)
        if heavy and not self._heavy:
            what = f"this broker takes {held / 1e6:.0f} MB of memory, more than all it may let wait"
            advice = "if one sender floods it, shut it out: python keys.py revoke NAME"
            self._record.note(f"{what}; {advice}", now)
        self._heavy = heavy

    def count_connections(self, now: float) -> list[Action]:
        """Due when some came or went: tell before no more can come."""
        connections = self._front.connections + self._back.connections
        crowded = connections > CROWDED * self._open_files
        if crowded and not self._crowded:
            what = f"{connections} connections are open, and {self._open_files} files are allowed"
            advice = "raise the limit (ulimit -n) before no more can join"
            self._record.note(f"{what}; {advice}", now)
        self._crowded = crowded
        return self._record.flush()
