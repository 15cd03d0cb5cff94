"""The Open Inference Protocol, version 2, that KServe and Triton speak over HTTP.

Health, metadata and inference, with the binary tensor data extension that Triton's clients use, and
its classification extension. The tensors themselves are in tensors.py.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from spyglass import __version__
from spyglass.client.aio_client import AioClient
from spyglass.client.session import Answer, RequestFailed
from spyglass.protocol import NAME, Reason
from spyglass.web.api import tensors
from spyglass.web.api.classify import MAX_PARSED_INLINE, ClassifyRoutes, Route, Routes, image_prefix
from spyglass.web.api.tensors import INPUT, OUTPUTS
from spyglass.web.http import problems
from spyglass.web.http.problems import Problem
from spyglass.web.http.request import Request
from spyglass.web.http.response import JSON, Response, json_response, problem_headers
from spyglass.web.http.uploads import FORM_OVERHEAD, raw_picture

#: The only version a model has, as Triton numbers them.
VERSION = "1"
EXTENSIONS = ["binary_tensor_data", "classification"]
HEADER_LENGTH = "Inference-Header-Content-Length"


def body_limit(max_upload: int) -> int:
    """Bytes of the largest infer request: one picture of the largest size, in base64."""
    return max_upload * 4 // 3 + FORM_OVERHEAD


class OpenInference:
    """The protocol's routes.

    Args:
        client: asks a broker about its fleet.
        classify_routes: classify the pictures.
        max_upload: bytes of the largest picture.
    """

    def __init__(self, client: AioClient, classify_routes: ClassifyRoutes, max_upload: int) -> None:
        self._client = client
        self._classify_routes = classify_routes
        self._max_upload = max_upload
        self.routes: Routes = {
            "/v2": {"GET": self._server},
            "/v2/health/live": {"GET": self._live},
            "/v2/health/ready": {"GET": self._ready},
        }
        model: dict[str, tuple[str, Route]] = {
            "": ("GET", self._metadata),
            "/ready": ("GET", self._model_ready),
            "/infer": ("POST", self._infer),
        }
        for end, (method, route) in model.items():
            self.routes[f"/v2/models/<model>{end}"] = {method: route}
            self.routes[f"/v2/models/<model>/versions/<version>{end}"] = {method: route}

    # --- health and metadata ------------------------------------------------------------------

    async def _server(self, request: Request) -> Response:
        return json_response({"name": "spyglass", "version": __version__, "extensions": EXTENSIONS})

    async def _live(self, request: Request) -> Response:
        return json_response({"live": True})

    async def _ready(self, request: Request) -> Response:
        models = await self._models()
        ready = any(model["workers"] for model in models if model["default"])
        return _readiness({}, ready)

    async def _metadata(self, request: Request) -> Response:
        model = await self._model(request)
        outputs = dict(zip(OUTPUTS, ("BYTES", "FP32"), strict=True))
        return json_response(
            {
                "name": model["name"],
                "versions": [VERSION],
                "platform": "spyglass",
                "inputs": [{"name": INPUT, "datatype": "BYTES", "shape": [-1]}],
                "outputs": [
                    {"name": name, "datatype": datatype, "shape": [-1, -1]}
                    for name, datatype in outputs.items()
                ],
            }
        )

    async def _model_ready(self, request: Request) -> Response:
        model = await self._model(request)
        return _readiness({"name": model["name"]}, bool(model["workers"]))

    async def _models(self) -> list[dict[str, Any]]:
        try:
            models: list[dict[str, Any]] = (await self._client.fleet())["models"]
        except RequestFailed as failed:
            raise Problem.of(Reason.NO_BROKER, str(failed)) from None
        return models

    async def _model(self, request: Request) -> dict[str, Any]:
        name = _named(request)
        for model in await self._models():
            if model["name"] == name:
                return model
        raise _unknown(name)

    # --- inference ----------------------------------------------------------------------------

    async def _infer(self, request: Request) -> Response:
        with self._classify_routes.failures_counted():
            return await self._inferred(request)

    async def _inferred(self, request: Request) -> Response:
        model = _named(request)
        if not NAME.fullmatch(model):
            raise _unknown(model)
        if b"content-encoding" in request.headers:
            raise problems.unsupported("Send the request uncompressed.")
        self._classify_routes.refuse_if_full()
        limit = body_limit(self._max_upload)
        body = await self._classify_routes.body(request, limit, limit)
        header = request.headers.get(HEADER_LENGTH.lower().encode())
        if len(body) <= MAX_PARSED_INLINE:
            asked = tensors.decode(body, header)
        else:
            asked = await asyncio.to_thread(tensors.decode, body, header)
        for number, image in enumerate(asked.images):
            try:
                raw_picture(image, self._max_upload)
            except Problem as problem:
                problem.detail = image_prefix(number, len(asked.images)) + problem.detail
                raise
        found = await self._classify_routes.classify_all(
            asked.images, model, asked.top_k, asked.timeout, request
        )
        return _answer(asked, found)


def as_response(problem: Problem) -> Response:
    """A failure in the protocol's form."""
    body = json.dumps({"error": problem.detail}).encode()
    return Response(body, problem.kind.status, JSON, problem_headers(problem))


def _answer(asked: tensors.InferRequest, found: list[Answer]) -> Response:
    head: dict[str, Any] = {"model_name": found[0].model, "model_version": VERSION}
    if asked.id:
        head["id"] = asked.id
    rows = [answer.predictions for answer in found]
    body, length = tensors.encode(head, asked.outputs, rows)
    headers = {"X-Request-Id": ", ".join(answer.request_id for answer in found)}
    if length == len(body):
        return Response(body, headers=headers)
    headers[HEADER_LENGTH] = str(length)
    return Response(body, 200, "application/octet-stream", headers)


def _readiness(head: dict[str, Any], ready: bool) -> Response:
    body = json.dumps({**head, "ready": ready}).encode()
    return Response(body, 200 if ready else 503)


def _named(request: Request) -> str:
    """The model that a request asks for; a version, if it names one, must be the only one."""
    name, version = request.args["model"], request.args.get("version", VERSION)
    if version != VERSION:
        what = f"The model {name} has no version {version}; its only one is {VERSION}."
        raise Problem.of(Reason.NO_MODEL, what)
    return name


def _unknown(name: str) -> Problem:
    return Problem.of(Reason.NO_MODEL, f"No model is named {name}. GET /models lists them.")
