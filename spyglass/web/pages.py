"""Pages, health, files and the fleet: the Bottle app of all routes that take no picture."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from typing import Any

import bottle

from spyglass.client.session import ClientSession, RequestFailed
from spyglass.protocol import Reason
from spyglass.web import templates
from spyglass.web.api import openapi
from spyglass.web.fleet import FleetRoutes
from spyglass.web.http import problems
from spyglass.web.http.guard import Guard
from spyglass.web.http.problems import Problem
from spyglass.web.http.response import SECURITY_HEADERS, Response, json_response, problem_response
from spyglass.web.metrics import Metrics
from spyglass.web.templates import STATIC

#: Pixels of the longer side of a frame from the camera page: no model here looks at more than 299.
FRAME_SIDE = 320
#: How hard gzip tries, from 1 to 9: least effort already makes a third of a page.
COMPRESSION = 1


def make_pages(
    client: ClientSession, max_upload: int, metrics: Metrics, guard: Guard
) -> bottle.Bottle:
    """The WSGI application. Opens nothing and keeps nothing but its client.

    Args:
        client: asks a broker about its fleet.
        max_upload: bytes of the largest picture, shown on the upload page.
        metrics: what /metrics answers.
        guard: decides about every action.
    """
    app = bottle.Bottle()
    app.config["catchall"] = False  # app.py logs and answers a bug, for all routes
    app.install(_compressed)
    app.install(_as_bottle_response)
    app.install(_Guarded(guard))
    app.add_hook("after_request", lambda: bottle.response.headers.update(SECURITY_HEADERS))
    app.default_error_handler = _no_route
    app.get("/", callback=lambda: templates.upload_page(max_upload))
    app.get("/camera", callback=lambda: templates.page("camera", side=FRAME_SIDE))
    FleetRoutes(client).add_to(app)
    _add_health(app, client)
    _add_metrics(app, metrics)
    _add_description(app)
    return app


class _Guarded:
    """A Bottle plugin: every route whose method does not only read is checked, as an action."""

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


def _add_health(app: bottle.Bottle, client: ClientSession) -> None:
    def live() -> Response:
        if not client.alive:
            raise Problem.of(Reason.NO_BROKER, "The connection to the broker has stopped.")
        return json_response({"status": "alive"})

    app.get("/livez", callback=live)

    def ready() -> Response:
        try:
            models = client.status()["models"]
        except RequestFailed as failed:
            raise Problem.of(Reason.NO_BROKER, str(failed)) from None
        workers = sum(model["workers"] for model in models if model["default"])
        if not workers:
            raise Problem.of(Reason.NO_WORKERS, "No worker is connected yet.")
        return json_response({"status": "ready", "workers": workers})

    app.get("/readyz", callback=ready)
    app.get("/healthz", callback=ready)

    def static(path: str) -> Any:
        found = bottle.static_file(path, root=str(STATIC))
        if found.status_code == 403:  # outside the folder
            raise problems.not_found("There is no such file.")
        return found

    app.get("/static/<path:path>", callback=static)


def _add_metrics(app: bottle.Bottle, metrics: Metrics) -> None:
    def exposition() -> Response:
        text, content_type = metrics.exposition(bottle.request.get_header("Accept", ""))
        return Response(text, content_type=content_type)

    app.get("/metrics", callback=exposition)


def _add_description(app: bottle.Bottle) -> None:
    def description() -> Response:
        return json_response(openapi.document())

    app.get("/openapi.json", callback=description)
    app.route("/", "OPTIONS", callback=description)  # where TorchServe's clients ask for it


# --- answers ----------------------------------------------------------------------------------


def _as_bottle_response(route: Callable[..., Any]) -> Callable[..., Any]:
    """A route may return a Response or raise a Problem; other results are Bottle's to send."""

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            response = route(*args, **kwargs)
        except Problem as problem:
            response = problem_response(problem)
        if not isinstance(response, Response):
            return response
        bottle.response.status = response.status
        bottle.response.content_type = response.content_type
        bottle.response.headers.update(response.headers)
        return response.body

    return wrapped


def _compressed(route: Callable[..., Any]) -> Callable[..., Any]:
    """Compress text, to about a third of its size, for clients that accept gzip."""

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        answer = route(*args, **kwargs)
        if "gzip" not in bottle.request.get_header("Accept-Encoding", ""):
            return answer
        if isinstance(answer, bottle.HTTPResponse):  # a file; without a body when asked by HEAD
            if bottle.request.method == "HEAD":
                return answer
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


def _no_route(error: bottle.HTTPError) -> bytes:
    """404 and 405: a page for people, a problem for programs."""
    response = templates.error_response(error.status_code, _wants_html())
    for name, value in {**response.headers, **SECURITY_HEADERS}.items():
        error.set_header(name, value)
    error.content_type = response.content_type
    return response.body
