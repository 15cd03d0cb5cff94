"""An HTTP response: status, headers and bytes, the same for routes of both kinds."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field

from spyglass.web.http import problems
from spyglass.web.http.problems import Problem

JSON = "application/json"
PROBLEM = "application/problem+json"
HTML = "text/html; charset=UTF-8"

#: Sent with every answer: no foreign code, no guessing of types, no framing by other sites.
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:;"
    " frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@dataclass(slots=True)
class Response:
    """One HTTP response."""

    body: bytes
    status: int = 200
    content_type: str = JSON
    headers: dict[str, str] = field(default_factory=dict)


def json_response(value: object, **headers: str) -> Response:
    """200 and JSON."""
    return Response(json.dumps(value).encode(), headers=headers)


def problem_response(problem: Problem) -> Response:
    """A failure, for programs (RFC 9457)."""
    headers = problem_headers(problem)
    return Response(json.dumps(problem.document()).encode(), problem.kind.status, PROBLEM, headers)


def problem_headers(problem: Problem) -> dict[str, str]:
    """What goes with a failure in any form; gives the problem an id if it has none."""
    problem.request_id = problem.request_id or os.urandom(16).hex()
    headers = {"X-Request-Id": problem.request_id, **problem.headers}
    if problem.kind.status == 503:
        headers["Retry-After"] = str(problems.RETRY_AFTER_S)
    return headers
