"""A socket pair that wakes a poller from a signal handler or another thread."""

from __future__ import annotations

import contextlib
import socket as network


class Waker:
    """Wakes a poller from a signal handler or another thread."""

    def __init__(self) -> None:
        self._reader, self._writer = network.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        """The descriptor to poll for reading."""
        return self._reader.fileno()

    def wake(self) -> None:
        """Make the poller return. Never blocks."""
        with contextlib.suppress(BlockingIOError, OSError):
            self._writer.send(b"!")  # full of earlier wake-ups, or closed: nothing to add

    def clear(self) -> None:
        """Forget all wake-ups so far."""
        with contextlib.suppress(BlockingIOError):
            self._reader.recv(4096)

    def close(self) -> None:
        self._reader.close()
        self._writer.close()
