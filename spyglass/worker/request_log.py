"""What a worker logs about each request, as the broker does in its request log."""

from __future__ import annotations

import logging

from spyglass.protocol import USUAL_FAILURES, Ack, Message, Nack, Result
from spyglass.runtime.logs import about

log = logging.getLogger(__name__)


def sent_to_child(request_id: bytes, child: int) -> None:
    """That a child process, by its id, has it now."""
    log.debug("given to child %d", child, extra=about(request_id, child=child))


def sent_to_broker(message: Message) -> None:
    """What the worker answers."""
    match message:
        case Ack():
            log.debug("accepted", extra=about(message.id))
        case Result():
            fields = about(message.id, infer_ms=message.times.infer)
            log.debug("computed it in %.1f ms", message.times.infer, extra=fields)
        case Nack():
            level = logging.DEBUG if message.reason in USUAL_FAILURES else logging.INFO
            fields = about(message.id, reason=message.reason.value)
            log.log(level, "%s: %s", message.reason.value, message.detail, extra=fields)
