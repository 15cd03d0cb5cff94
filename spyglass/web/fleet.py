"""The routes that show and change the fleet: workers, quarantine, joining, and its status."""

from __future__ import annotations

import json
from typing import Any

import bottle

from spyglass.client.session import ClientSession, NotAllowed, RequestFailed
from spyglass.protocol import NAME, Op, Reason
from spyglass.transport.addresses import AddressError, address
from spyglass.web import templates
from spyglass.web.http import problems
from spyglass.web.http.problems import Problem
from spyglass.web.http.response import Response, json_response

#: Bytes of an action's body that are read: an address or a name, with much room.
MAX_BODY = 4096


class FleetRoutes:
    """Passes questions about the fleet, and actions on it, to the broker.

    Args:
        client: reaches the broker.
    """

    def __init__(self, client: ClientSession) -> None:
        self._client = client

    def add_to(self, app: bottle.Bottle) -> None:
        """Add these routes to an app, which checks who may act."""
        app.get("/status", callback=self._status_page)
        app.get("/v1/status", callback=self._status)
        app.post("/v1/workers", callback=self._add_worker)
        app.post("/v1/join", callback=self._join)
        app.delete("/v1/workers/<worker_id>", callback=self._remove_worker)
        app.delete("/v1/quarantine", callback=self._clear_quarantine)
        app.delete("/v1/quarantine/<sha256>", callback=self._clear_quarantine)

    # --- status -------------------------------------------------------------------------------

    def _status_page(self) -> str:
        try:
            status = self._client.status()
        except RequestFailed:
            status = None  # the page says so, and shows the fleet once the broker answers
        return templates.page("status", status=status, broker_address=self._client.address)

    def _status(self) -> Response:
        bottle.response.set_header("Cache-Control", "no-store")
        try:
            return json_response(self._client.status())
        except RequestFailed as failed:
            raise Problem.of(Reason.NO_BROKER, str(failed)) from None

    # --- actions ------------------------------------------------------------------------------

    def _add_worker(self) -> Response:
        example = '{"address": "tcp://192.168.1.7:8888"}'
        malformed = problems.malformed(f"Send JSON such as {example}.")
        target = _object_sent(malformed).get("address")
        if not isinstance(target, str):
            raise malformed
        try:
            return self._control(Op.ADD, address(target))
        except AddressError:
            raise malformed from None

    def _join(self) -> Response:
        malformed = problems.malformed('Send JSON such as {"name": "kitchen"}, or {}.')
        name = _object_sent(malformed).get("name", "")
        if not isinstance(name, str) or (name and not NAME.fullmatch(name)):
            raise malformed
        bottle.response.set_header("Cache-Control", "no-store")  # it holds a secret
        return self._control(Op.JOIN, name)

    def _remove_worker(self, worker_id: str) -> Response:
        now = bottle.request.query.get("now") == "1"
        return self._control(Op.REMOVE if now else Op.DRAIN, worker_id[:64])

    def _clear_quarantine(self, sha256: str = "") -> Response:
        return self._control(Op.CLEAR, sha256[:64])

    def _control(self, op: Op, target: str) -> Response:
        if not target.isprintable():  # the broker would drop the message, and never answer
            raise problems.not_found("Nothing has this id. /v1/status lists workers and pictures.")
        try:
            done, detail = self._client.control(op, target)
        except RequestFailed as failed:
            raise Problem.of(Reason.NO_BROKER, str(failed)) from None
        except NotAllowed as refused:
            raise problems.forbidden(str(refused)) from None
        if not done:
            asked_wrongly = op in (Op.ADD, Op.JOIN)
            raise problems.malformed(detail) if asked_wrongly else problems.not_found(detail)
        return json_response({"detail": detail})


def _object_sent(malformed: Problem) -> dict[str, Any]:
    """The JSON object in the request's body; raises `malformed` if there is none."""
    try:
        sent = json.loads(bottle.request.environ["wsgi.input"].read(MAX_BODY))
    except (ValueError, RecursionError):  # not JSON, or nested too deeply
        raise malformed from None
    if not isinstance(sent, dict):
        raise malformed
    return sent
