"""Logging for the programs: readable lines on standard error that can never stop the service."""

from __future__ import annotations

import atexit
import contextlib
import logging
import logging.handlers
import os
import queue
import sys

#: Lines waiting for a slow terminal or a full pipe. Beyond that lines are dropped, not the work.
MAX_LINES = 1000

#: Seconds a leaving process waits for its last lines to be written: they say why it leaves. A
#: terminal or pipe that is stuck for longer must not keep it.
LAST_LINES_WITHIN = 1.0


class _DroppingHandler(logging.handlers.QueueHandler):
    """Hands lines to the writing thread, and drops them while that one is stuck."""

    def enqueue(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(queue.Full):  # waiting here would stop the heartbeats
            self.queue.put_nowait(record)


class _Writer(logging.Handler):
    """Writes to standard error for the one thread that uses it, without any lock: shutting down,
    Python asks for every handler's lock and would wait for ever for that of a stuck write."""

    def createLock(self) -> None:
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # nobody reads any more
            os.write(sys.stderr.fileno(), f"{self.format(record)}\n".encode())


def configure(program: str) -> None:
    """Send every log line of this process to standard error, through a thread of its own."""
    lines: queue.Queue[logging.LogRecord] = queue.Queue(MAX_LINES)
    writer = _Writer()
    writer.setFormatter(logging.Formatter(f"%(asctime)s {program}: %(message)s", "%H:%M:%S"))
    # The thread is a daemon: a process that wants to leave must not wait for a stuck terminal.
    logging.handlers.QueueListener(lines, writer).start()
    atexit.register(_write_last, lines)
    handler = _DroppingHandler(lines)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def _write_last(lines: queue.Queue[logging.LogRecord]) -> None:
    with lines.all_tasks_done:
        lines.all_tasks_done.wait_for(lambda: not lines.unfinished_tasks, LAST_LINES_WITHIN)
