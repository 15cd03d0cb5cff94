"""Logging for the programs: lines on standard error that can never stop the service.

Lines for people, or with `--log-format json` one JSON object a line for machines. What comes from
outside may hold anything: whatever is not printable is escaped, so that nobody can write a line
of our log.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import io
import json
import logging
import logging.handlers
import os
import queue
import sys
import threading
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from spyglass.runtime.settings import Parser, one_of

#: Lines waiting for a slow terminal or a full pipe. Beyond that lines are dropped, not the work.
MAX_LINES = 1000

#: Seconds a leaving process waits for its last lines to be written: they say why it leaves. A
#: terminal or pipe that is stuck for longer must not keep it.
LAST_LINES_WITHIN = 1.0

#: The file descriptor of standard error.
STDERR = 2

#: What every record has; anything else was added by whoever logged it.
_STANDARD = frozenset((*logging.makeLogRecord({}).__dict__, "message", "asctime", "color_message"))

log = logging.getLogger(__name__)


def add_settings(p: Parser) -> None:
    """The flags for logs, the same for every program that serves."""
    p.setting("--log-format", "text", "text for people, json for machines", one_of("text", "json"))
    p.setting(
        "--log-level", "info", "debug tells each step of each picture",
        one_of("debug", "info", "warning", "error"),
    )  # fmt: skip


def detailed() -> bool:
    """Whether each step of a request is logged (`--log-level debug`)."""
    return logging.getLogger().isEnabledFor(logging.DEBUG)


def about(request_id: bytes | str, **fields: object) -> dict[str, object]:
    """Whose line it is and what belongs to it, for `extra=`."""
    told = request_id if isinstance(request_id, str) else request_id.hex()
    return {"request_id": told, **fields}


def always(logger: logging.Logger, text: str, *args: object) -> None:
    """A warning that is logged even with `--log-level error`."""
    logger.log(max(logging.WARNING, logger.getEffectiveLevel()), text, *args)


class _DroppingHandler(logging.handlers.QueueHandler):
    """Hands lines to the writing thread, and drops them while that one is stuck."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Fix what may change until it is written; the writing thread does the rest."""
        record.msg, record.args = record.getMessage(), None
        if record.exc_info:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
            record.exc_info = None
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(queue.Full):  # waiting here would stop the heartbeats
            self.queue.put_nowait(record)


class _NoLock:
    """Stands where a handler has its lock. Before Python 3.13 that could be None."""

    def acquire(self) -> None: ...

    def release(self) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


class _Writer(logging.Handler):
    """Writes to standard error for the one thread that uses it, without any lock: shutting down,
    Python asks for every handler's lock and would wait for ever for that of a stuck write."""

    def createLock(self) -> None:
        self.lock = _NoLock()  # type: ignore[assignment]

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # nobody reads any more
            os.write(STDERR, f"{self.format(record)}\n".encode())


class _Stderr(io.TextIOBase):
    """Makes a line of the log of each text that is printed to standard error."""

    def write(self, text: str) -> int:
        if text.strip():
            log.error("%s", text.strip())
        return len(text)


class Text(logging.Formatter):
    """A line for people; a traceback follows it, indented, so that no part of it looks like one."""

    def __init__(self, program: str) -> None:
        super().__init__(f"%(asctime)s {program}: %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        record.message = record.getMessage()
        record.asctime = self.formatTime(record, self.datefmt)
        line = _printable(self.formatMessage(record))
        if request_id := getattr(record, "request_id", ""):
            line += f" request_id={_printable(request_id)}"
        traceback = (record.exc_text or "").splitlines()
        return "\n    ".join([line, *map(_printable, traceback)])


class Json(logging.Formatter):
    """A JSON object on one line."""

    def __init__(self, program: str, name: str) -> None:
        super().__init__()
        self._whose = {"program": program, **({"worker": name} if name else {})}

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        told: dict[str, Any] = {"time": at, "level": record.levelname.lower(), **self._whose}
        told["message"] = record.getMessage()
        if record.exc_text:
            told["exception"] = record.exc_text
        for key, value in record.__dict__.items():
            if key not in _STANDARD:
                told.setdefault(key, value)
        return json.dumps(told, default=str)


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def configure(program: str, options: argparse.Namespace, name: str = "") -> None:
    """Send every log line of this process to standard error, through a thread of its own.

    Args:
        program: which of our programs this is.
        options: with the settings above.
        name: the worker's, where this is one.
    """
    lines: queue.Queue[logging.LogRecord] = queue.Queue(MAX_LINES)
    writer = _Writer()
    machine = options.log_format == "json"
    writer.setFormatter(Json(program, name) if machine else Text(name or program))
    # The thread is a daemon: a process that wants to leave must not wait for a stuck terminal.
    logging.handlers.QueueListener(lines, writer).start()
    atexit.register(_write_last, lines)
    logging.basicConfig(level=options.log_level.upper(), handlers=[_DroppingHandler(lines)])
    logging.captureWarnings(True)
    if machine:
        sys.stderr = _Stderr()
    sys.excepthook = _uncaught
    threading.excepthook = lambda args: _uncaught(
        args.exc_type, args.exc_value or args.exc_type(), args.exc_traceback
    )


def _uncaught(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    """What nobody foresaw is a line of the log like any other."""
    if issubclass(kind, Exception):
        log.critical("failed: %s", error, exc_info=(kind, error, where))


def _write_last(lines: queue.Queue[logging.LogRecord]) -> None:
    with lines.all_tasks_done:
        lines.all_tasks_done.wait_for(lambda: not lines.unfinished_tasks, LAST_LINES_WITHIN)
