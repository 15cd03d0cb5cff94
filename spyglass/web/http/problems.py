"""All failures of a request over HTTP: one table from reasons to RFC 9457 problems.

upload ─▶ size, form, format ─▶ queue ─▶ worker ─▶ answer
          400 413 415           503 404   422 502   504
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from spyglass.protocol import Reason

#: Seconds a client is asked to wait before it tries again after a 503.
RETRY_AFTER_S = 1


@dataclass(frozen=True, slots=True)
class Kind:
    """The status and title of one kind of failure."""

    status: int
    title: str
    retryable: bool = False


#: A test checks that no Reason is missing.
REASONS: dict[Reason, Kind] = {
    Reason.CHECKSUM: Kind(502, "Picture damaged in transit", retryable=True),
    Reason.BUSY: Kind(503, "Busy", retryable=True),
    Reason.BAD_IMAGE: Kind(422, "Unreadable picture"),
    Reason.TOO_MANY_PIXELS: Kind(422, "Picture too large"),
    Reason.UNSUPPORTED: Kind(415, "Not an accepted format"),
    Reason.CRASH: Kind(502, "Worker crashed", retryable=True),
    Reason.HUNG: Kind(502, "Worker stopped responding", retryable=True),
    Reason.CANCELLED: Kind(503, "Cancelled", retryable=True),
    Reason.DRAINING: Kind(503, "Restarting", retryable=True),
    Reason.DEADLINE: Kind(504, "No answer in time", retryable=True),
    Reason.QUARANTINED: Kind(422, "Picture in quarantine"),
    Reason.NO_MODEL: Kind(404, "No such model"),
    Reason.NO_WORKERS: Kind(503, "No worker connected", retryable=True),
    Reason.NO_BROKER: Kind(503, "Broker unreachable", retryable=True),
    Reason.WORKER_LOST: Kind(502, "Worker lost", retryable=True),
    Reason.WRONG_MODEL: Kind(502, "Wrong model", retryable=True),
}


class Problem(Exception):
    """A request that fails: status, a code for programs and a sentence for people."""

    def __init__(
        self,
        kind: Kind,
        code: str,
        detail: str,
        request_id: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.code = code
        self.detail = detail
        self.request_id = request_id
        self.headers = headers or {}

    @classmethod
    def of(cls, reason: Reason, detail: str, request_id: str = "") -> Problem:
        """The problem for a reason from the broker or a worker."""
        return cls(REASONS[reason], reason.value, detail, request_id)

    def document(self) -> dict[str, object]:
        """The body of application/problem+json (RFC 9457)."""
        return {
            "type": "about:blank",
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": self.detail,
            "code": self.code,
            "request_id": self.request_id,
            "retryable": self.kind.retryable,
        }


def malformed(detail: str) -> Problem:
    """400: the request itself is wrong."""
    return Problem(Kind(400, "Malformed request"), "malformed", detail)


def too_large(limit: int) -> Problem:
    """413: more bytes than the upload limit."""
    what = f"The limit is {limit / 1e6:g} MB. Send a smaller picture."
    return Problem(Kind(413, "Upload too large"), "too-large", what)


def unauthorized(detail: str) -> Problem:
    """401: an action without the admin token, be it missing or wrong."""
    asked = {"WWW-Authenticate": "Bearer"}
    return Problem(Kind(401, "Unauthorized"), "unauthorized", detail, headers=asked)


def too_many_guesses(wait: float) -> Problem:
    """429: too many wrong admin tokens from an address, which must wait this many seconds."""
    seconds = math.ceil(wait)
    what = f"Too many wrong tokens came from this address. Try again in {seconds} s."
    kind = Kind(429, "Too many wrong tokens", retryable=True)
    return Problem(kind, "too-many-guesses", what, headers={"Retry-After": str(seconds)})


def forbidden(detail: str) -> Problem:
    """403: an action from another site's page, or where no token is set, or another site's Host."""
    return Problem(Kind(403, "Forbidden"), "forbidden", detail)


def not_found(detail: str) -> Problem:
    """404: no such page or thing."""
    return Problem(Kind(404, "Not found"), "not-found", detail)


def unsupported(detail: str) -> Problem:
    """415: not a picture of an accepted format."""
    return Problem.of(Reason.UNSUPPORTED, detail)


def title_of(status: int) -> str:
    """HTTP's phrase for this status."""
    return HTTPStatus(status).phrase


def for_status(status: int) -> Problem:
    """A failure of which only the status is known: no such page, a wrong method, a bug."""
    details = {
        404: "There is no such page. The upload page is at /, the status page at /status.",
        405: "This address does not accept this method.",
    }
    title = title_of(status)
    code = title.lower().replace(" ", "-")
    detail = details.get(status, "Something went wrong here. Details are in the web server's log.")
    return Problem(Kind(status, title), code, detail)
