"""TorchServe's inference API, so that its clients work unchanged.

Addresses, bodies, error types and codes are those of TorchServe 0.12 (docs/inference_api.md,
docs/management_api.md, and HttpRequestHandler.java of pytorch/serve). What changes a server, such
as registering models, is not offered: workers bring their models with them.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from spyglass.client.aio_client import AioClient
from spyglass.client.session import RequestFailed
from spyglass.protocol import Reason
from spyglass.web.api.classify import ClassifyRoutes, Route, Routes
from spyglass.web.http import problems
from spyglass.web.http.problems import Problem
from spyglass.web.http.request import Request
from spyglass.web.http.response import JSON, Response, problem_headers

#: The only version a model has: TorchServe's name for the first.
VERSION = "1.0"
#: Models on one page of a list, as many as TorchServe gives.
PAGE = 100

#: TorchServe's exception for a problem's code, or else for its status.
TYPES = {
    "no-model": "ModelNotFoundException",
    "no-version": "ModelVersionNotFoundException",
    404: "ResourceNotFoundException",
    400: "BadRequestException",
    405: "MethodNotAllowedException",
    503: "ServiceUnavailableException",
}
#: What TorchServe names for every failure in a handler, whatever its status.
HANDLER_TYPE = "InternalServerException"
#: TorchServe's own sentences, by status.
SENTENCES = {
    404: "Requested resource is not found, please refer to API document.",
    405: "Requested method is not allowed, please refer to API document.",
}


class TorchServe:
    """TorchServe's routes.

    Args:
        client: asks a broker about its fleet.
        classify_routes: classify the pictures.
    """

    def __init__(self, client: AioClient, classify_routes: ClassifyRoutes) -> None:
        self._client = client
        self._classify_routes = classify_routes
        predict: dict[str, Route] = {"POST": self._predict, "PUT": self._predict}
        self.routes: Routes = {
            "/predictions/<model>": predict,
            "/predictions/<model>/<version>": predict,
            "/ping": {"GET": self._ping},
            "/models": {"GET": self._models},
            "/models/<model>": {"GET": self._describe},
            "/models/<model>/<version>": {"GET": self._describe},
        }

    async def _predict(self, request: Request) -> Response:
        """Labels and their probabilities, the likeliest first."""
        model = request.args["model"]
        _check_version(request)
        request.query["model"] = model
        try:
            answer, _ = await self._classify_routes.classify(request)
        except Problem as problem:
            raise _as_torchserve_problem(problem, model) from None
        labels: dict[str, float] = {}
        for row in answer["predictions"]:  # two classes may have one label: the likelier counts
            labels.setdefault(row["label"], row["probability"])
        return _json(labels, {"X-Request-Id": answer["request_id"]})

    async def _ping(self, request: Request) -> Response:
        try:
            models = (await self._fleet())["models"]
        except Problem:
            models = []
        if any(model["workers"] for model in models if model["default"]):
            return _json({"status": "Healthy"})
        return _json({"status": "Unhealthy"}, status=500)

    async def _models(self, request: Request) -> Response:
        limit = _whole(request, "limit", PAGE)
        start = _whole(request, "next_page_token", 0)
        if not 0 <= limit <= PAGE:
            limit = PAGE
        rows = sorted((await self._fleet())["models"], key=lambda model: str(model["name"]))
        page = rows[start : start + limit]
        listed: dict[str, Any] = {}
        if start + limit < len(rows):
            listed["nextPageToken"] = str(start + limit)
        listed["models"] = [{"modelName": m["name"], "modelUrl": m["digest"]} for m in page]
        return _json(listed)

    async def _describe(self, request: Request) -> Response:
        name = request.args["model"]
        if request.args.get("version") != "all":
            _check_version(request)
        fleet = await self._fleet()
        for model in fleet["models"]:
            if model["name"] == name:
                return _json([_description(model, fleet)])
        raise _model_not_found(name)

    async def _fleet(self) -> dict[str, Any]:
        try:
            return await self._client.fleet()
        except RequestFailed as failed:
            raise Problem.of(Reason.NO_BROKER, str(failed)) from None


def as_response(problem: Problem) -> Response:
    """A failure in TorchServe's form."""
    status = problem.kind.status
    kind = TYPES.get(problem.code) or TYPES.get(status, HANDLER_TYPE)
    message = problem.detail
    if problem.code in ("not-found", "method-not-allowed"):
        message = SENTENCES[status]
    if status == 502:  # the worker was lost; TorchServe is no gateway and never answers 502
        status = 500
    error = {"code": status, "type": kind, "message": message}
    return _json(error, problem_headers(problem), status)


def _json(value: object, headers: dict[str, str] | None = None, status: int = 200) -> Response:
    return Response(json.dumps(value, indent=2).encode() + b"\n", status, JSON, headers or {})


def _check_version(request: Request) -> None:
    version = request.args.get("version", VERSION)
    if version != VERSION:
        what = f"Model version: {version} does not exist for model: {request.args['model']}"
        raise Problem(problems.REASONS[Reason.NO_MODEL], "no-version", what)


def _model_not_found(name: str) -> Problem:
    return Problem.of(Reason.NO_MODEL, f"Model not found: {name}")


def _as_torchserve_problem(problem: Problem, model: str) -> Problem:
    if problem.code == Reason.NO_MODEL.value:
        return _model_not_found(model)
    if problem.code == Reason.NO_WORKERS.value:
        what = f'Model "{model}" has no worker to serve inference request.'
        return Problem.of(Reason.NO_WORKERS, f"{what} {problem.detail}", problem.request_id)
    return problem


def _whole(request: Request, name: str, default: int) -> int:
    """A number from the query, or else the default that TorchServe takes where it can read none."""
    text = request.query.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else default


def _description(model: dict[str, Any], fleet: dict[str, Any]) -> dict[str, Any]:
    workers = [worker for worker in fleet["workers"] if worker["model"] == model["name"]]
    processes = sum(worker["processes"] for worker in workers)
    queue = fleet["queue"]
    return {
        "modelName": model["name"],
        "modelVersion": VERSION,
        "modelUrl": model["digest"],
        "runtime": "python",
        "minWorkers": processes,
        "maxWorkers": processes,
        "maxBatchDelay": 0,
        "loadedAtStartup": True,
        "workers": [_worker(worker) for worker in workers],
        "jobQueueStatus": {
            "remainingCapacity": max(0, queue["max_waiting"] - queue["waiting"]),
            "pendingRequests": model["waiting"],
        },
    }


def _worker(worker: dict[str, Any]) -> dict[str, Any]:
    started = datetime.now(UTC) - timedelta(seconds=worker["uptime_s"])
    return {
        "id": worker["id"],
        "startTime": started.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "status": "READY" if worker["state"] in ("ready", "busy") else "UNLOADING",
        "pid": worker["pid"],
    }
