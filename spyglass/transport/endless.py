"""Messages that never end, or are of frames without number: found while they come, and cut.

libzmq holds a message back until its last frame has come, bounds only the bytes of each, and
takes 64 bytes for one of none. What comes is to be seen from outside: by the bytes that came over
a connection, and by the memory that this process took meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass

from spyglass.protocol import PART_BYTES
from spyglass.transport.peers import PeerTracker, bytes_received

#: Bytes between two looks, up to a second, that are ZMTP's pings and answers to ours.
PINGS = 256
#: Bytes of memory that no bytes which came explain, before whoever sends is cut.
MAX_UNEXPLAINED = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Begun:
    """A message that is not whole, as it was when somebody looked last."""

    received: int  # bytes of the connection so far
    size: int  # of these, bytes of this message
    memory: int  # bytes of the process when it began


class Endless:
    """One port's connections, looked at again and again.

    Linux is asked only about those over which no whole message came since the last look; so what
    comes between a whole message and the second look after it is not bounded.
    """

    def __init__(self, watch: PeerTracker, longest: int) -> None:
        """
        Args:
            watch: the connections of a port.
            longest: bytes of a whole message that are never reached with all its frames.
        """
        self._watch = watch
        self._longest = longest
        self._begun: dict[tuple[int, int], Begun] = {}
        self._newest = 0  # the generation of the last connection known
        self._memory = 0  # at the last look

    def cut(self, memory: int) -> list[str]:
        """End connections over which more has come than any message holds, but no whole one, or
        frames without number; where their peers are.

        Args:
            memory: bytes this process took, but for what it knows to keep.
        """
        before, self._begun = self._begun, {}
        for connection in self._watch.without_message():
            received = bytes_received(connection[0])
            if connection[1] > self._newest:  # all that came over it is its first message
                then = Begun(0, 0, self._memory)
            else:
                then = before.get(connection) or Begun(received, 0, memory)
            came = received - then.received
            size = then.size + (came if came > PINGS else 0)
            self._begun[connection] = Begun(received, size, then.memory if size else memory)
        self._newest, self._memory = self._watch.newest_generation, memory
        explained = sum([begun.size for begun in self._begun.values()])
        return [
            self._watch.end(connection)
            for connection, begun in self._begun.items()
            if begun.size > self._longest
            or (begun.size > PART_BYTES and memory - begun.memory - explained > MAX_UNEXPLAINED)
        ]
