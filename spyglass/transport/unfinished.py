"""Finds messages that never end, or have frames without number, and disconnects their senders.

libzmq delivers a message only when its last frame has come. It bounds the bytes of each frame
(ZMQ_MAXMSGSIZE) but not the number of frames, and keeps 64 bytes for an empty one. So an unfinished
message can only be seen from outside: by the bytes that came over its connection, and by the memory
that this process took meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass

from spyglass.protocol import PART_BYTES
from spyglass.transport.peers import PeerTracker, bytes_received

#: Bytes that may come between two checks, up to a second apart, as ZMTP's pings and replies to
#: ours, without counting as part of a message.
PINGS = 256
#: Bytes of memory that received bytes do not explain, before the sender is disconnected.
MAX_UNEXPLAINED = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A message that has not ended yet, as it was at the last check."""

    received: int  # bytes of the connection so far
    size: int  # of these, bytes of this message
    memory: int  # bytes of the process when the message began


class UnfinishedMessages:
    """The unfinished messages of one port, checked periodically.

    Linux is asked only about connections over which no whole message came since the last check. So
    bytes that come between a whole message and the second check after it are not bounded.
    """

    def __init__(self, peers: PeerTracker, longest: int) -> None:
        """
        Args:
            peers: the connections of the port.
            longest: bytes, more than a legal message with all its frames ever has.
        """
        self._peers = peers
        self._longest = longest
        self._unfinished: dict[tuple[int, int], Unfinished] = {}
        self._newest = 0  # generation of the newest connection at the last check
        self._memory = 0  # bytes of the process at the last check

    def disconnect_senders(self, memory: int) -> list[str]:
        """End each connection whose unfinished message is longer than any legal one, or takes far
        more memory than its bytes, as frames without number do. Returns the peers' addresses.

        Args:
            memory: bytes this process took, without those of the messages it keeps on purpose.
        """
        before, self._unfinished = self._unfinished, {}
        for connection in self._peers.without_message():
            received = bytes_received(connection[0])
            if connection[1] > self._newest:  # all that came over it is its first message
                then = Unfinished(0, 0, self._memory)
            else:
                then = before.get(connection) or Unfinished(received, 0, memory)
            came = received - then.received
            size = then.size + (came if came > PINGS else 0)
            self._unfinished[connection] = Unfinished(
                received, size, then.memory if size else memory
            )
        self._newest, self._memory = self._peers.newest_generation, memory
        explained = sum([message.size for message in self._unfinished.values()])
        return [
            self._peers.end(connection)
            for connection, message in self._unfinished.items()
            if message.size > self._longest
            or (message.size > PART_BYTES and memory - message.memory - explained > MAX_UNEXPLAINED)
        ]
