"""The web: pages, JSON and health in front of a broker.

`make_app` joins two parts: coroutines that pass pictures to an AioClient and its answers back
(api/), and a Bottle app for everything else (pages.py), which runs in threads since it may wait for
the broker. Pictures are not decoded here: only their length and first bytes are checked.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import bottle
from a2wsgi import WSGIMiddleware

from spyglass.client.aio_client import AioClient
from spyglass.protocol import DEFAULT_TIMEOUT, NAME
from spyglass.runtime import logs
from spyglass.web import templates
from spyglass.web.api import openinference, torchserve
from spyglass.web.api.classify import ClassifyRoutes, Route, Routes
from spyglass.web.api.openinference import OpenInference
from spyglass.web.api.torchserve import TorchServe
from spyglass.web.fleet_metrics import FleetCollector
from spyglass.web.http import problems
from spyglass.web.http.guard import Guard
from spyglass.web.http.problems import Problem
from spyglass.web.http.request import App, ClientDisconnected, Receive, Request, Scope, Send
from spyglass.web.http.response import SECURITY_HEADERS, Response, problem_response
from spyglass.web.metrics import Metrics
from spyglass.web.pages import make_pages

log = logging.getLogger(__name__)

#: An API that other programs speak has failures in a form of its own, a dialect: it turns a problem
#: into a response.
Dialect: TypeAlias = Callable[[Problem], Response]

#: The dialect of failures by the first part of a path; other paths answer application/problem+json.
DIALECTS: dict[str, Dialect] = {
    "predictions": torchserve.as_response,
    "models": torchserve.as_response,
    "ping": torchserve.as_response,
    "v2": openinference.as_response,
}

#: Bytes of the largest upload: a 24-megapixel photo, well compressed.
MAX_UPLOAD = 10_000_000
#: A body up to this many times the largest upload is read, so that its sender gets a response that
#: it is too large; beyond that the connection is cut.
READ_FACTOR = 4
#: Threads for pages and health. They wait for the broker for two seconds at most.
PAGE_THREADS = 32


def make_app(
    client: AioClient,
    max_upload: int = MAX_UPLOAD,
    timeout: float = DEFAULT_TIMEOUT,
    guard: Guard | None = None,
) -> App:
    """The ASGI application. Opens nothing and keeps nothing but its client.

    Args:
        client: sends pictures to a broker.
        max_upload: bytes of the largest picture.
        timeout: seconds a picture may take when the caller names no limit.
        guard: decides who may act; without one, only this machine may.
    """
    guard = guard or Guard()
    metrics = Metrics(FleetCollector(client))
    routes = picture_routes(client, max_upload, timeout, metrics)
    router = bottle.Router()
    for rule, methods in routes.items():
        for method, route in methods.items():
            router.add(rule, method, route)
    bottled = make_pages(client, max_upload, metrics, guard)
    pages: Any = WSGIMiddleware(bottled, workers=PAGE_THREADS)
    page_rules = {route.rule for route in bottled.routes}

    def find(method: str, path: str, request: Request) -> tuple[Route | None, Response | None]:
        """A request's coroutine, or else its refusal; if it has neither, the pages answer."""
        try:
            route, request.args = router.match({"REQUEST_METHOD": method, "PATH_INFO": path})
            return route, None
        except bottle.HTTPError as unmatched:
            status, headers = unmatched.status_code, dict(unmatched.headers.items())
        dialect = _dialect(path)
        if not dialect and (status == 404 or path in page_rules):
            return None, None
        refusal = _refusal(status, request, dialect)
        refusal.headers.update(headers)
        return None, refusal

    detailed = log.isEnabledFor(logging.DEBUG)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        began, method, path = time.monotonic(), scope["method"], scope["path"]
        request = Request(scope, receive)
        try:
            route, refusal = find(method, path, request)
            guard.check_host(request.headers.get(b"host", ""), path)
            if route:
                response = await route(request)
            elif refusal:
                response = refusal
            else:
                await pages(scope, receive, send)
                return
        except Problem as problem:
            response = (_dialect(path) or problem_response)(problem)
        except ClientDisconnected:
            return
        except Exception:  # a bug: the only place that catches all, for all routes
            response = _refusal(500, request, _dialect(path))
            whose = logs.about(response.headers.get("X-Request-Id", ""))
            log.exception("%s %s failed", method, path, extra=whose)
        await _send(send, response)
        if detailed or response.status >= 500:
            _log_request(scope, request, response, time.monotonic() - began)

    return metrics.measured(app, [*routes, *page_rules])


def picture_routes(client: AioClient, max_upload: int, timeout: float, metrics: Metrics) -> Routes:
    """All routes that are coroutines: those that take pictures, and those of other APIs."""
    classify_routes = ClassifyRoutes(client, max_upload, timeout, metrics)
    inference = OpenInference(client, classify_routes, max_upload)
    return classify_routes.routes | TorchServe(client, classify_routes).routes | inference.routes


def _dialect(path: str) -> Dialect | None:
    return DIALECTS.get(path[1:].partition("/")[0])


def _log_request(scope: Scope, request: Request, response: Response, took: float) -> None:
    """Log a request in one line; at debug level unless a worker or the web itself failed."""
    level = logging.INFO if response.status in (500, 502, 504) else logging.DEBUG
    fields = logs.about(response.headers.get("X-Request-Id", ""), status=response.status)
    callers = request.headers.get(b"x-request-id", "")
    if NAME.fullmatch(callers):
        fields["callers_id"] = callers
    what = scope["method"], scope["path"], response.status, 1000 * took
    log.log(level, "%s %s: %d in %.1f ms", *what, extra=fields)


def _refusal(status: int, request: Request, dialect: Dialect | None) -> Response:
    if dialect:
        return dialect(problems.for_status(status))
    return templates.error_response(status, request.wants_html)


async def _send(send: Send, response: Response) -> None:
    headers = {
        "Content-Type": response.content_type,
        "Content-Length": str(len(response.body)),
        **SECURITY_HEADERS,
        **response.headers,
    }
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": response.status, "headers": pairs})
    await send({"type": "http.response.body", "body": response.body})
