"""What the web answers with: a status, headers and bytes, the same for routes of both kinds."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bottle

import problems
from problems import Problem
from spyglass import formats

HERE = Path(__file__).resolve().parent

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
class Reply:
    """One HTTP response."""

    body: bytes
    status: int = 200
    kind: str = JSON
    headers: dict[str, str] = field(default_factory=dict)


def of_json(value: object, **headers: str) -> Reply:
    """200 and JSON."""
    return Reply(json.dumps(value).encode(), headers=headers)


def of_problem(problem: Problem) -> Reply:
    """A failure, for programs (RFC 9457)."""
    headers = problem_headers(problem)
    return Reply(json.dumps(problem.document()).encode(), problem.kind.status, PROBLEM, headers)


def problem_headers(problem: Problem) -> dict[str, str]:
    """What goes with a failure in any form; gives the problem an id if it has none."""
    problem.request_id = problem.request_id or os.urandom(16).hex()
    headers = {"X-Request-Id": problem.request_id, **problem.headers}
    if problem.kind.status == 503:
        headers["Retry-After"] = str(problems.RETRY_AFTER_S)
    return headers


def page(name: str, **variables: Any) -> str:
    """A page from views/."""
    text: str = bottle.template(name, template_lookup=[str(HERE / "views")], **variables)
    return text


def upload_page(
    max_upload: int, answer: object = None, error: object = None, name: str = ""
) -> str:
    """The upload page; with an answer or an error where the form was sent without script."""
    accept = ",".join(formats.MIME_TYPES.values())
    told = {"answer": answer, "error": error, "picture_name": name}
    return page("index", max_upload=max_upload, accept=accept, **told)


def unforeseen(status: int, html: bool) -> Reply:
    """The answer where no route has one."""
    problem = problems.unforeseen(status)
    reply = of_problem(problem)
    if html:
        reply.body = page("error", **problem.document()).encode()
        reply.kind = HTML
    return reply
