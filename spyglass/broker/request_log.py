"""What the broker logs of each request: `grep ID` in all logs shows its whole way.

What failed is logged always, whether the request was answered in the end or not; each step only
with `--log-level debug`, since a line takes some 11 us.
"""

from __future__ import annotations

import logging

from spyglass.dispatcher.actions import LogEvent
from spyglass.protocol import USUAL_FAILURES, Ack, Cancel, Message, Nack, Reason, Request, Result
from spyglass.runtime.logs import about

log = logging.getLogger(__name__)


def arrived(message: Message) -> None:
    """From a client."""
    match message:
        case Request():
            size, model = message.body.size, message.model or "the default model"
            log.debug("%d bytes for %s arrived", size, model, extra=about(message.id, bytes=size))
        case Cancel():
            log.debug("cancelled by its client", extra=about(message.id))


def reply_came(worker: str, message: Message) -> None:
    """From a worker."""
    match message:
        case Ack():
            log.debug("acknowledged by %s", worker, extra=about(message.id, worker=worker))
        case Nack():
            # Moves for any other reason have their line in the event log.
            level = logging.INFO if message.reason is Reason.DRAINING else logging.DEBUG
            fields = about(message.id, worker=worker, reason=message.reason.value)
            log.log(level, "returned by %s: %s", worker, message.reason.value, extra=fields)


def sent(worker: str, message: Message) -> None:
    """To a worker."""
    match message:
        case Request():
            fields = about(message.id, worker=worker, attempt=message.attempt)
            log.debug("sent to %s, attempt %d", worker, message.attempt, extra=fields)
        case Cancel():
            log.debug("cancelled at %s", worker, extra=about(message.id, worker=worker))


def answered(message: Message) -> None:
    """To its client."""
    match message:
        case Result():
            fields = about(message.id, worker=message.worker, attempts=message.attempts)
            log.debug("answered by %s", message.worker, extra=fields)
        case Nack():
            level = logging.DEBUG if message.reason in USUAL_FAILURES else logging.INFO
            fields = about(message.id, reason=message.reason.value)
            log.log(level, "failed: %s", message.reason.value, extra=fields)


def event(event: LogEvent) -> None:
    """A change of the fleet, with a line for each request that it moved."""
    if len(event.requests) != 1:
        log.info("%s", event.text)
    for request_id in event.requests:
        log.info("%s", event.text, extra=about(request_id))
