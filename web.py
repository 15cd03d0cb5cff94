#!/usr/bin/env python3
"""The web: pages, JSON and health in front of a broker.

A Bottle app whose threads put pictures into a BrokerClient and wait for its future. No frames,
no decoding: the picture is only measured and its first bytes looked at.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import bottle

import formats
import logs
import problems
from brokerclient import Answer, BrokerClient, RequestFailed
from httpserver import RECEIVE_WITHIN, make_server
from limits import TooFewOpenFiles, raise_open_files
from problems import Problem
from settings import (
    EXIT_FAILED,
    EXIT_OK,
    FRONTEND,
    HOST,
    PORT,
    Parser,
    address,
    seconds,
    whole,
)
from uploads import read_picture
from zmq_protocol import DEFAULT_TIMEOUT, MAX_TIMEOUT, MAX_TOP_K, NAME, Op, Reason

log = logging.getLogger(__name__)

HERE = Path(__file__).resolve().parent

#: Bytes of the largest upload: a 24-megapixel photo, well compressed.
MAX_UPLOAD = 10_000_000
#: Pictures in the web's hands at a time; more are told "busy" at once.
MAX_IN_FLIGHT = 200
#: Threads beyond those, for pages and health while every picture waits.
SPARE_THREADS = 32
#: Seconds past a request's deadline until the web stops waiting for the client library.
PATIENCE = 0.5
#: Seconds between two looks whether the person who asked is still there.
LOOK_INTERVAL = 1.0
#: Seconds a leaving web lets requests finish.
LEAVE_WITHIN = 10.0

#: Sent with every answer: no foreign code, no guessing of types, no framing by other sites.
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:;"
    " frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Fleet(Protocol):
    """What the web needs of a BrokerClient."""

    @property
    def alive(self) -> bool: ...

    @property
    def address(self) -> str: ...

    def submit(
        self, picture: bytes, *, model: str, top_k: int, timeout: float
    ) -> Future[Answer]: ...

    def status(self) -> dict[str, Any]: ...

    def control(self, op: Op, target: str) -> tuple[bool, str]: ...


def make_app(
    client: Fleet, max_upload: int = MAX_UPLOAD, timeout: float = DEFAULT_TIMEOUT
) -> bottle.Bottle:
    """The WSGI application. Opens nothing and keeps nothing but its client.

    Args:
        client: where pictures go.
        max_upload: bytes of the largest picture.
        timeout: seconds a picture may take when the caller names no limit.
    """
    app = bottle.Bottle()
    app.install(_problems_as_answers)
    app.add_hook("after_request", lambda: bottle.response.headers.update(SECURITY_HEADERS))
    app.default_error_handler = _unforeseen
    _add_recognition(app, client, max_upload, timeout)
    _add_fleet(app, client)
    _add_health(app, client)
    return app


# --- recognising ------------------------------------------------------------------------------


def _add_recognition(app: bottle.Bottle, client: Fleet, max_upload: int, timeout: float) -> None:
    admission = threading.BoundedSemaphore(MAX_IN_FLIGHT)

    def recognise() -> tuple[dict[str, Any], str]:
        """The picture in the present request, recognised: the answer, and its file name."""
        began = time.monotonic()
        if not admission.acquire(blocking=False):
            what = f"{MAX_IN_FLIGHT} pictures are in hand already. Try again shortly."
            raise Problem.of(Reason.BUSY, what)
        try:
            model, top_k, limit = _wishes(timeout)
            picture, name = read_picture(bottle.request.environ, max_upload)
            future = client.submit(picture, model=model, top_k=top_k, timeout=limit)
            return _told(_awaited(future, limit + PATIENCE), began), name
        finally:
            admission.release()

    def page(answer: object = None, error: object = None, name: str = "") -> str:
        accept = ",".join(formats.MIME_TYPES.values())
        return _render(
            "index",
            answer=answer,
            error=error,
            max_upload=max_upload,
            accept=accept,
            picture_name=name,
        )

    def upload_page() -> str:
        return page()

    app.get("/", callback=upload_page)

    def upload_form() -> str:
        try:
            answer, name = recognise()
        except Problem as problem:
            bottle.response.status = problem.kind.status
            return page(error=_with_id(problem).document())
        return page(answer, name=name)

    app.post("/", callback=upload_form)

    def classify() -> str:
        answer, _ = recognise()
        timings = answer["timings_ms"]
        bottle.response.set_header("X-Request-Id", answer["request_id"])
        bottle.response.set_header(
            "Server-Timing", ", ".join(f"{key};dur={ms}" for key, ms in timings.items())
        )
        return _json(answer)

    app.post("/v1/classify", callback=classify)


def _awaited(future: Future[Answer], limit: float) -> Answer:
    """The answer, unless `limit` seconds pass or whoever asked hangs up before."""
    hung_up = bottle.request.environ.get("waitress.client_disconnected", lambda: False)
    until = time.monotonic() + limit
    while (left := until - time.monotonic()) > 0:
        try:
            return future.result(min(left, LOOK_INTERVAL))
        except RequestFailed as failed:
            raise Problem.of(failed.reason, str(failed), failed.request_id) from None
        except FutureTimeout:
            if hung_up():
                future.cancel()
                raise Problem.of(Reason.CANCELLED, "The connection was closed.") from None
    future.cancel()
    raise Problem.of(Reason.DEADLINE, "No answer came in the time allowed.")


def _wishes(default_timeout: float) -> tuple[str, int, float]:
    """model, top_k and seconds from the query string, checked."""
    query = bottle.request.query
    model = query.get("model", "")
    if model and not NAME.fullmatch(model):
        raise Problem.of(Reason.NO_MODEL, "No model has such a name. See /v1/status for those.")
    top_k = _whole(query.get("top_k", "5"), "top_k", MAX_TOP_K)
    longest = int(1000 * MAX_TIMEOUT)
    milliseconds = _whole(
        query.get("timeout_ms", str(int(1000 * default_timeout))), "timeout_ms", longest
    )
    return model, top_k, milliseconds / 1000


def _whole(text: str, name: str, high: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= high):
        raise problems.malformed(f"{name} must be a whole number from 1 to {high}.")
    return int(text)


def _told(answer: Answer, began: float) -> dict[str, Any]:
    return {
        "request_id": answer.request_id,
        "model": answer.model,
        "digest": answer.digest,
        "predictions": answer.predictions,
        "worker": answer.worker,
        "attempts": answer.attempts,
        "timings_ms": {
            "queue": answer.queue_ms,
            "infer": answer.infer_ms,
            "total": round(1000 * (time.monotonic() - began), 3),
        },
    }


# --- the fleet --------------------------------------------------------------------------------


def _add_fleet(app: bottle.Bottle, client: Fleet) -> None:
    def snapshot() -> dict[str, Any]:
        try:
            return client.status()
        except RequestFailed as failed:
            raise Problem.of(Reason.NO_BROKER, str(failed)) from None

    def control(op: Op, target: str) -> str:
        _same_origin()
        try:
            done, detail = client.control(op, target)
        except RequestFailed as failed:
            raise Problem.of(Reason.NO_BROKER, str(failed)) from None
        if not done:
            raise problems.not_found(detail) if op is not Op.ADD else problems.malformed(detail)
        return _json({"detail": detail})

    def status_page() -> str:
        try:
            status = snapshot()
        except Problem:
            status = None  # the page says so, and heals by itself
        return _render("status", status=status, broker_address=client.address)

    app.get("/status", callback=status_page)

    def status() -> str:
        bottle.response.set_header("Cache-Control", "no-store")
        return _json(snapshot())

    app.get("/v1/status", callback=status)

    def add_worker() -> str:
        text = bottle.request.environ["wsgi.input"].read(4096)
        try:
            target = json.loads(text)["address"]
            address(target)
        except Exception:
            example = '{"address": "tcp://192.168.1.7:8888"}'
            raise problems.malformed(f"Send JSON such as {example}.") from None
        return control(Op.ADD, target)

    app.post("/v1/workers", callback=add_worker)

    def remove_worker(worker_id: str) -> str:
        now = bottle.request.query.get("now") == "1"
        return control(Op.REMOVE if now else Op.DRAIN, worker_id[:64])

    app.delete("/v1/workers/<worker_id>", callback=remove_worker)

    def clear_quarantine(sha256: str = "") -> str:
        return control(Op.CLEAR, sha256[:64])

    app.delete("/v1/quarantine", callback=clear_quarantine)
    app.delete("/v1/quarantine/<sha256>", callback=clear_quarantine)


def _same_origin() -> None:
    """Refuse actions that another site's page sends through a visitor's browser."""
    host = bottle.request.get_header("Host", "")
    origin = bottle.request.get_header("Origin")
    site = bottle.request.get_header("Sec-Fetch-Site", "same-origin")
    if (origin and urlsplit(origin).netloc != host) or site not in ("same-origin", "none"):
        raise problems.forbidden("This action must come from Spyglass's own page.")


# --- health and files -------------------------------------------------------------------------


def _add_health(app: bottle.Bottle, client: Fleet) -> None:
    def live() -> str:
        if not client.alive:
            raise Problem.of(Reason.NO_BROKER, "The connection to the broker has stopped.")
        return _json({"status": "alive"})

    app.get("/livez", callback=live)

    def ready() -> str:
        try:
            models = client.status()["models"]
        except RequestFailed as failed:
            raise Problem.of(Reason.NO_BROKER, str(failed)) from None
        workers = sum(model["workers"] for model in models if model["default"])
        if not workers:
            raise Problem.of(Reason.NO_WORKERS, "No worker is connected yet.")
        return _json({"status": "ready", "workers": workers})

    app.get("/readyz", callback=ready)
    app.get("/healthz", callback=ready)

    def static(path: str) -> Any:
        found = bottle.static_file(path, root=str(HERE / "static"))
        if found.status_code == 403:  # outside the folder: nothing is there for anybody
            raise problems.not_found("There is no such file.")
        return found

    app.get("/static/<path:path>", callback=static)


# --- answers ----------------------------------------------------------------------------------


def _json(value: object) -> str:
    bottle.response.content_type = "application/json"
    return json.dumps(value)


def _render(name: str, **variables: Any) -> str:
    text: str = bottle.template(name, template_lookup=[str(HERE / "views")], **variables)
    return text


def _problems_as_answers(route: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return route(*args, **kwargs)
        except Problem as problem:
            return _problem_answer(_with_id(problem))

    return wrapped


def _with_id(problem: Problem) -> Problem:
    problem.request_id = problem.request_id or os.urandom(16).hex()
    bottle.response.set_header("X-Request-Id", problem.request_id)
    if problem.kind.status == 503:
        bottle.response.set_header("Retry-After", str(problems.RETRY_AFTER_S))
    return problem


def _problem_answer(problem: Problem) -> str:
    bottle.response.status = problem.kind.status
    bottle.response.content_type = "application/problem+json"
    return json.dumps(problem.document())


def _unforeseen(error: bottle.HTTPError) -> str:
    """404, 405 and our own bugs: a page for people, a problem for programs."""
    if error.exception is not None:
        log.error(
            "%s %s failed", bottle.request.method, bottle.request.path, exc_info=error.exception
        )
    details = {
        404: "There is no such page. The upload page is at /, the fleet at /status.",
        405: "This address does not take this method.",
    }
    title = str(error.status_line).partition(" ")[2]
    code = title.lower().replace(" ", "-")
    detail = details.get(error.status_code, "Something went wrong here; it is in the web's log.")
    problem = _with_id(Problem(problems.Kind(error.status_code, title), code, detail))
    error.set_header("X-Request-Id", problem.request_id)
    for name, value in SECURITY_HEADERS.items():
        error.set_header(name, value)
    if "text/html" in bottle.request.get_header("Accept", ""):
        return _render(
            "error",
            status=error.status_code,
            title=title,
            detail=detail,
            request_id=problem.request_id,
        )
    error.content_type = "application/problem+json"
    return json.dumps(problem.document())


# --- command line -----------------------------------------------------------------------------


def parser() -> Parser:
    """The command line."""
    p = Parser(
        "web.py",
        "Serves the upload page, the status page and the HTTP API.",
        "  python web.py\n"
        "  python web.py --port 9000 --max-upload 20000000\n"
        "  SPYGLASS_BROKER=tcp://127.0.0.1:7555 python web.py",
    )
    p.setting(
        "--broker",
        None,
        f"a broker's clients' port; may be repeated ({FRONTEND})",
        address,
        action="append",
    )
    p.setting("--host", HOST, "address to listen on")
    p.setting("--port", PORT, "port to listen on, 0 for any", whole(0, 65535))
    p.setting("--max-upload", MAX_UPLOAD, "bytes of the largest picture", whole(1, 60_000_000))
    p.setting("--timeout", DEFAULT_TIMEOUT, "seconds a picture may take", seconds(0.1, MAX_TIMEOUT))
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; the exit code."""
    options = parser().parse_args(argv)
    logs.configure("web")
    logging.getLogger("waitress").setLevel(logging.ERROR)
    try:
        raise_open_files()
    except TooFewOpenFiles as error:
        print(f"web.py: {error}", file=sys.stderr)
        return EXIT_FAILED
    client = BrokerClient(options.broker or [FRONTEND])
    app = make_app(client, options.max_upload, options.timeout)
    try:
        server = make_server(
            app,
            options.host,
            options.port,
            MAX_IN_FLIGHT + SPARE_THREADS,
            options.max_upload,
            RECEIVE_WITHIN,
        )
    except (OSError, ValueError) as error:
        print(
            f"web.py: cannot listen on {options.host}:{options.port}: {error}.\n"
            "Choose another port with --port (SPYGLASS_PORT).",
            file=sys.stderr,
        )
        return EXIT_FAILED

    def leave(*_: object) -> None:
        raise SystemExit(EXIT_OK)  # waitress stops accepting, finishes its tasks and returns

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
    log.info("open http://%s:%s/", options.host, server.effective_port)
    server.run()
    server.task_dispatcher.shutdown(cancel_pending=False, timeout=LEAVE_WITHIN)
    client.close()
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
