#!/usr/bin/env python3
"""The web: pages, JSON and health in front of a broker.

`make_app` puts two parts together: coroutines that pass pictures to a LoopClient and its answers
back (recognition.py), and a Bottle app for everything else (pages.py), which runs in threads since
it may wait for the broker. No frames, no decoding: a picture is only measured, and its first bytes
looked at.
"""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

import bottle
from a2wsgi import WSGIMiddleware

import admin
import answers
import openinference
import problems
import torchserve
from answers import SECURITY_HEADERS, Reply
from httpserver import Server
from metrics import Metrics
from openinference import OpenInference
from pages import make_pages
from problems import Problem
from recognition import HungUp, Receive, Recognition, Request, Route, Routes, Scope, Send
from spyglass.client.aio_client import LoopClient
from spyglass.protocol import DEFAULT_TIMEOUT, MAX_TIMEOUT, NAME
from spyglass.runtime import logs
from spyglass.runtime.open_files import TooFewOpenFiles, raise_open_files
from spyglass.runtime.settings import (
    EXIT_FAILED,
    EXIT_OK,
    FRONTEND,
    HOST,
    PORT,
    BadSetting,
    Parser,
    seconds,
    whole,
)
from spyglass.transport.credentials import joining
from torchserve import TorchServe

log = logging.getLogger(__name__)

App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

Dialect: TypeAlias = Callable[[Problem], Reply]

#: How failures are told under an address's first word; elsewhere as application/problem+json.
DIALECTS: dict[str, Dialect] = {
    "predictions": torchserve.told,
    "models": torchserve.told,
    "ping": torchserve.told,
    "v2": openinference.told,
}

#: Bytes of the largest upload: a 24-megapixel photo, well compressed.
MAX_UPLOAD = 10_000_000
#: Times that, a body is still read, to tell its sender that it is too large; beyond it the
#: connection is cut.
READ_ON = 4
#: Threads for pages and health. They wait for the broker, two seconds at most.
PAGE_THREADS = 32


def make_app(
    client: LoopClient,
    max_upload: int = MAX_UPLOAD,
    timeout: float = DEFAULT_TIMEOUT,
    guard: admin.Guard | None = None,
) -> App:
    """The ASGI application. Opens nothing and keeps nothing but its client.

    Args:
        client: where pictures go.
        max_upload: bytes of the largest picture.
        timeout: seconds a picture may take when the caller names no limit.
        guard: whom to ask who may act; without one, only this machine may.
    """
    guard = guard or admin.Guard()
    metrics = Metrics(client)
    routes = picture_routes(client, max_upload, timeout, metrics)
    router = bottle.Router()
    for rule, methods in routes.items():
        for method, route in methods.items():
            router.add(rule, method, route)
    bottled = make_pages(client, max_upload, metrics, guard)
    pages: Any = WSGIMiddleware(bottled, workers=PAGE_THREADS)
    page_rules = {route.rule for route in bottled.routes}

    def find(method: str, path: str, request: Request) -> tuple[Route | None, Reply | None]:
        """Who answers: a coroutine, or this refusal at once, or, without both, the pages."""
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
        route, refusal = find(method, path, request)
        try:
            guard.check_name(request.headers.get(b"host", ""), path)
            if route:
                reply = await route(request)
            elif refusal:
                reply = refusal
            else:
                await pages(scope, receive, send)
                return
        except Problem as problem:
            reply = (_dialect(path) or answers.of_problem)(problem)
        except HungUp:
            return
        except Exception:
            reply = _refusal(500, request, _dialect(path))
            whose = logs.about(reply.headers.get("X-Request-Id", ""))
            log.exception("%s %s failed", method, path, extra=whose)
        await _send(send, reply)
        if detailed or reply.status >= 500:
            _tell(scope, request, reply, time.monotonic() - began)

    return metrics.measured(app, [*routes, *page_rules])


def picture_routes(client: LoopClient, max_upload: int, timeout: float, metrics: Metrics) -> Routes:
    """All routes that are coroutines: those that take pictures, and the other dialects."""
    recognition = Recognition(client, max_upload, timeout, metrics)
    inference = OpenInference(client, recognition, max_upload)
    return recognition.routes | TorchServe(client, recognition).routes | inference.routes


def _dialect(path: str) -> Dialect | None:
    return DIALECTS.get(path[1:].partition("/")[0])


def _tell(scope: Scope, request: Request, reply: Reply, took: float) -> None:
    """The log's line of a request. What was refused, or is its sender's own to mend, is told with
    `--log-level debug` only."""
    level = logging.INFO if reply.status in (500, 502, 504) else logging.DEBUG
    fields = logs.about(reply.headers.get("X-Request-Id", ""), status=reply.status)
    callers = request.headers.get(b"x-request-id", "")
    if NAME.fullmatch(callers):
        fields["callers_id"] = callers
    what = scope["method"], scope["path"], reply.status, 1000 * took
    log.log(level, "%s %s: %d in %.1f ms", *what, extra=fields)


def _refusal(status: int, request: Request, dialect: Dialect | None) -> Reply:
    if dialect:
        return dialect(problems.unforeseen(status))
    return answers.unforeseen(status, request.wants_html)


async def _send(send: Send, reply: Reply) -> None:
    headers = {
        "Content-Type": reply.kind,
        "Content-Length": str(len(reply.body)),
        **SECURITY_HEADERS,
        **reply.headers,
    }
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": pairs})
    await send({"type": "http.response.body", "body": reply.body})


def parser() -> Parser:
    """The command line."""
    p = Parser(
        "web.py",
        "Serves the upload page, the status page and the HTTP API.",
        "  python web.py\n"
        "  python web.py --port 9000 --max-upload 20000000\n"
        "  python web.py --host 0.0.0.0 --allowed-host spyglass.example.org\n"
        "  SPYGLASS_BROKER='tcp://10.0.0.5:5555#SECRET' python web.py   # see keys.py front",
    )
    p.setting(
        "--broker",
        None,
        f"a broker's clients' port; may be repeated; keep one with a secret in SPYGLASS_BROKER,"
        f" where other users of this machine cannot see it ({FRONTEND})",
        joining,
        action="append",
    )
    p.setting("--host", HOST, "address to listen on")
    p.setting("--port", PORT, "port to listen on, 0 for any", whole(0, 65535))
    p.setting(
        "--allowed-host",
        None,
        "another name this server is reached by; may be repeated",
        host_name,
        action="append",
    )
    p.setting("--admin-token-file", "", "file of the token that actions need; see keys.py")
    p.setting("--max-upload", MAX_UPLOAD, "bytes of the largest picture", whole(1, 60_000_000))
    p.setting("--timeout", DEFAULT_TIMEOUT, "seconds a picture may take", seconds(0.1, MAX_TIMEOUT))
    logs.add_settings(p)
    return p


def host_name(text: str) -> str:
    """A name as it stands in an address, perhaps with a port, for `type=`."""
    if not admin.hostname(text):
        raise BadSetting(f"{text!r} is not a name such as spyglass.example.org")
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; the exit code."""
    options = parser().parse_args(argv)
    logs.configure("web", options)
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    try:
        raise_open_files()
    except TooFewOpenFiles as error:
        print(f"web.py: {error}", file=sys.stderr)
        return EXIT_FAILED
    try:
        token = admin.load_token(options.admin_token_file)
    except admin.BadToken as error:
        print(f"web.py: {error}", file=sys.stderr)
        return EXIT_FAILED
    guard = admin.Guard(options.host, options.allowed_host or [], token)
    client = LoopClient(options.broker or [FRONTEND])
    app = make_app(client, options.max_upload, options.timeout, guard)
    try:
        server = Server(app, options.host, options.port, READ_ON * options.max_upload, client.open)
    except (OSError, ValueError) as error:
        print(
            f"web.py: cannot listen on {options.host}:{options.port}: {error}.\n"
            "Choose another port with --port (SPYGLASS_PORT).",
            file=sys.stderr,
        )
        return EXIT_FAILED

    for number in (signal.SIGTERM, signal.SIGINT):
        # Until the server has handlers of its own; and once more when it has finished.
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    log.info("open http://%s:%s/", options.host, server.port)
    server.run()
    client.close()
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
