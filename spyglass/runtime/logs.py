"""Logging for the programs: lines on standard error that can never stop the service.

Text for people, or with `--log-format json` one JSON object a line for machines. Values from peers
may contain anything: what is not printable is escaped, so that no peer can forge a line of the log.
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

#: Lines that wait for a slow terminal or a full pipe. Beyond that lines are dropped: a program must
#: not stop serving because nobody reads its log.
MAX_LINES = 1000

#: Seconds an ending process waits for its last lines to be written: they say why it ends. A stuck
#: terminal or pipe must not keep it any longer.
LAST_LINES_WITHIN = 1.0

#: The file descriptor of standard error.
STDERR = 2

#: Attributes that every record has; any other one was added by the caller through `extra=`.
_STANDARD = frozenset((*logging.makeLogRecord({}).__dict__, "message", "asctime", "color_message"))

log = logging.getLogger(__name__)


def add_settings(p: Parser) -> None:
    """Add the flags for logs, the same for broker, worker and web."""
    p.setting("--log-format", "text", "text for people, json for machines", one_of("text", "json"))
    p.setting(
        "--log-level", "info", "debug shows each step of each picture",
        one_of("debug", "info", "warning", "error"),
    )  # fmt: skip


def detailed() -> bool:
    """Whether each step of a request is logged (`--log-level debug`)."""
    return logging.getLogger().isEnabledFor(logging.DEBUG)


def about(request_id: bytes | str, **fields: object) -> dict[str, object]:
    """The request that a line is about, and further fields, for `extra=`."""
    shown = request_id if isinstance(request_id, str) else request_id.hex()
    return {"request_id": shown, **fields}


def always(logger: logging.Logger, text: str, *args: object) -> None:
    """Log a warning even with `--log-level error`."""
    logger.log(max(logging.WARNING, logger.getEffectiveLevel()), text, *args)


class _DroppingHandler(logging.handlers.QueueHandler):
    """Passes lines to the writing thread, and drops them while that thread is stuck."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Format now what may have changed once the line is written, in another thread."""
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
    """Writes to standard error, without a lock, for the single thread that uses it: at exit Python
    takes every handler's lock, and would wait forever for that of a write that is stuck."""

    def createLock(self) -> None:
        self.lock = _NoLock()  # type: ignore[assignment]

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # the reader has gone, or the disk is full
            os.write(STDERR, f"{self.format(record)}\n".encode())


class _Stderr(io.TextIOBase):
    """Turns text that is printed to standard error into lines of the log."""

    def write(self, text: str) -> int:
        if text.strip():
            log.error("%s", text.strip())
        return len(text)


class Text(logging.Formatter):
    """A line for people. A traceback follows it, indented, so that no part of it looks like
    another line."""

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
        self._source = {"program": program, **({"worker": name} if name else {})}

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": at, "level": record.levelname.lower(), **self._source}
        line["message"] = record.getMessage()
        if record.exc_text:
            line["exception"] = record.exc_text
        for key, value in record.__dict__.items():
            if key not in _STANDARD:
                line.setdefault(key, value)
        return json.dumps(line, default=str)


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def configure(program: str, options: argparse.Namespace, name: str = "") -> None:
    """Send every log line of this process to standard error, through a thread of its own.

    Args:
        program: broker, worker or web.
        options: the parsed flags that `add_settings` added.
        name: the worker's name, if this is a worker.
    """
    lines: queue.Queue[logging.LogRecord] = queue.Queue(MAX_LINES)
    writer = _Writer()
    machine = options.log_format == "json"
    writer.setFormatter(Json(program, name) if machine else Text(name or program))
    # The thread is a daemon, so that a stuck terminal does not keep the process from ending.
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
    """An unexpected exception becomes a line of the log like any other."""
    if issubclass(kind, Exception):
        log.critical("failed: %s", error, exc_info=(kind, error, where))


def _write_last(lines: queue.Queue[logging.LogRecord]) -> None:
    with lines.all_tasks_done:
        lines.all_tasks_done.wait_for(lambda: not lines.unfinished_tasks, LAST_LINES_WITHIN)
