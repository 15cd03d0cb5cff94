"""Pages, the fleet and health: a Bottle app of all routes that carry no picture."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Callable
from typing import Any

import bottle

from spyglass.client.session import Client, NotAllowed, RequestFailed
from spyglass.protocol import NAME, Op, Reason
from spyglass.runtime.logs import about
from spyglass.transport.addresses import address
from spyglass.web import templates
from spyglass.web.api import openapi
from spyglass.web.http import problems, response
from spyglass.web.http.guard import Guard
from spyglass.web.http.problems import Problem
from spyglass.web.http.response import SECURITY_HEADERS
from spyglass.web.metrics import Metrics
from spyglass.web.templates import STATIC

log = logging.getLogger(__name__)

#: Pixels of the longer side of a frame from the camera page: no model here looks at more than 299.
FRAME_SIDE = 320
#: How hard gzip tries, from 1 to 9: least effort already makes a third of a page.
COMPRESSION = 1


def make_pages(client: Client, max_upload: int, metrics: Metrics, guard: Guard) -> bottle.Bottle:
    """The WSGI application. Opens nothing and keeps nothing but its client.

    Args:
        client: whom to ask about the fleet.
        max_upload: bytes of the largest picture, told on the upload page.
        metrics: what /metrics tells.
        guard: asked before every action.
    """
    app = bottle.Bottle()
    app.install(_compressed)
    app.install(_problems_as_answers)
    app.install(_Guarded(guard))
    app.add_hook("after_request", lambda: bottle.response.headers.update(SECURITY_HEADERS))
    app.default_error_handler = _unforeseen
    app.get("/", callback=lambda: templates.upload_page(max_upload))
    app.get("/camera", callback=lambda: templates.page("camera", side=FRAME_SIDE))
    _add_fleet(app, client)
    _add_health(app, client)
    _add_metrics(app, metrics)
    _add_description(app)
    return app


# --- the fleet --------------------------------------------------------------------------------


def _add_fleet(app: bottle.Bottle, client: Client) -> None:
    def snapshot() -> dict[str, Any]:
        try:
            return client.status()
        except RequestFailed as failed:
            raise Problem.of(Reason.NO_BROKER, str(failed)) from None

    def control(op: Op, target: str) -> str:
        if not target.isprintable():  # the broker would drop the message, and never answer
            raise problems.not_found("Nothing has this id. /v1/status lists workers and pictures.")
        try:
            done, detail = client.control(op, target)
        except RequestFailed as failed:
            raise Problem.of(Reason.NO_BROKER, str(failed)) from None
        except NotAllowed as refused:
            raise problems.forbidden(str(refused)) from None
        if not done:
            asked_wrongly = op in (Op.ADD, Op.JOIN)
            raise problems.malformed(detail) if asked_wrongly else problems.not_found(detail)
        return _json({"detail": detail})

    def status_page() -> str:
        try:
            status = snapshot()
        except Problem:
            status = None  # the page says so, and heals by itself
        return templates.page("status", status=status, broker_address=client.address)

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

    def let_in() -> str:
        text = bottle.request.environ["wsgi.input"].read(4096)
        try:
            name = json.loads(text).get("name", "")
            if name != "" and not NAME.fullmatch(name):
                raise ValueError
        except Exception:
            raise problems.malformed('Send JSON such as {"name": "kitchen"}, or {}.') from None
        bottle.response.set_header("Cache-Control", "no-store")  # it holds a secret
        return control(Op.JOIN, name)

    app.post("/v1/join", callback=let_in)

    def remove_worker(worker_id: str) -> str:
        now = bottle.request.query.get("now") == "1"
        return control(Op.REMOVE if now else Op.DRAIN, worker_id[:64])

    app.delete("/v1/workers/<worker_id>", callback=remove_worker)

    def clear_quarantine(sha256: str = "") -> str:
        return control(Op.CLEAR, sha256[:64])

    app.delete("/v1/quarantine", callback=clear_quarantine)
    app.delete("/v1/quarantine/<sha256>", callback=clear_quarantine)


class _Guarded:
    """A Bottle plugin: whatever does not only read is an action, so that none is forgotten."""

    name, api = "guarded", 2

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def apply(self, route: Callable[..., Any], context: Any) -> Callable[..., Any]:
        if context.method in ("GET", "HEAD", "OPTIONS"):
            return route

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            request = bottle.request
            # Not request.remote_addr: that is whatever X-Forwarded-For says.
            environ = request.environ
            peer, protocol = environ.get("REMOTE_ADDR", ""), environ.get("SERVER_PROTOCOL", "")
            self._guard.check_action(request.method, request.headers, peer, protocol)
            return route(*args, **kwargs)

        return wrapped


# --- health and files -------------------------------------------------------------------------


def _add_health(app: bottle.Bottle, client: Client) -> None:
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
        found = bottle.static_file(path, root=str(STATIC))
        if found.status_code == 403:  # outside the folder: nothing is there for anybody
            raise problems.not_found("There is no such file.")
        return found

    app.get("/static/<path:path>", callback=static)


def _add_metrics(app: bottle.Bottle, metrics: Metrics) -> None:
    def scraped() -> bytes:
        text, kind = metrics.exposition(bottle.request.get_header("Accept", ""))
        bottle.response.content_type = kind
        return text

    app.get("/metrics", callback=scraped)


def _add_description(app: bottle.Bottle) -> None:
    def described() -> str:
        return _json(openapi.document())

    app.get("/openapi.json", callback=described)
    app.route("/", "OPTIONS", callback=described)  # where TorchServe's clients ask for it


# --- answers ----------------------------------------------------------------------------------


def _json(value: object) -> str:
    bottle.response.content_type = response.JSON
    return json.dumps(value)


def _problems_as_answers(route: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return route(*args, **kwargs)
        except Problem as problem:
            reply = response.of_problem(problem)
        except bottle.HTTPResponse:
            raise
        except Exception:  # Bottle would tell the server of it too, which answered a second time
            reply = templates.unforeseen(500, _wants_html())
            whose = about(reply.headers["X-Request-Id"])
            what = bottle.request.method, bottle.request.path
            log.exception("%s %s failed", *what, extra=whose)
        bottle.response.status = reply.status
        bottle.response.content_type = reply.kind
        bottle.response.headers.update(reply.headers)
        return reply.body

    return wrapped


def _compressed(route: Callable[..., Any]) -> Callable[..., Any]:
    """Text goes out in about a third of its size where the browser takes that."""

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        answer = route(*args, **kwargs)
        if "gzip" not in bottle.request.get_header("Accept-Encoding", ""):
            return answer
        if isinstance(answer, bottle.HTTPResponse):  # a file
            kind, headers = answer.content_type, answer.headers
            if answer.status_code != 200 or not kind.startswith(("text/", "image/svg")):
                return answer
            with answer.body as file:
                answer.body = gzip.compress(file.read(), COMPRESSION)
            headers["Content-Length"] = str(len(answer.body))
        else:
            headers = bottle.response.headers
            text = answer.encode() if isinstance(answer, str) else answer
            answer = gzip.compress(text, COMPRESSION)
        headers["Content-Encoding"] = "gzip"
        headers["Vary"] = "Accept-Encoding"
        return answer

    return wrapped


def _wants_html() -> bool:
    return "text/html" in bottle.request.get_header("Accept", "")


def _unforeseen(error: bottle.HTTPError) -> bytes:
    """404 and 405: a page for people, a problem for programs."""
    reply = templates.unforeseen(error.status_code, _wants_html())
    for name, value in {**reply.headers, **SECURITY_HEADERS}.items():
        error.set_header(name, value)
    error.content_type = reply.kind
    return reply.body
