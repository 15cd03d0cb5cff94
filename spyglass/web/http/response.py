"""An HTTP response: status, headers and bytes, the same for coroutines and for Bottle's routes."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field

from spyglass.web.http import problems
from spyglass.web.http.problems import Problem

JSON = "application/json"
PROBLEM = "application/problem+json"
HTML = "text/html; charset=UTF-8"

#: Sent with every response: no scripts of other sites, no guessing of types, no framing by others.
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
    """A successful response with this value as JSON."""
    return Response(json.dumps(value).encode(), headers=headers)


def problem_response(problem: Problem) -> Response:
    """A failure as a problem document (RFC 9457)."""
    headers = problem_headers(problem)
    return Response(json.dumps(problem.document()).encode(), problem.kind.status, PROBLEM, headers)


def problem_headers(problem: Problem) -> dict[str, str]:
    """The headers of a failure in any form; gives the problem an id if it has none."""
    problem.request_id = problem.request_id or os.urandom(16).hex()
    headers = {"X-Request-Id": problem.request_id, **problem.headers}
    if problem.kind.status == 503:
        headers["Retry-After"] = str(problems.RETRY_AFTER_S)
    return headers
