"""The HTTP API described: what /openapi.json answers (OpenAPI 3.1).

There is one entry in PATHS for each route of the app; a test compares both, and checks every
response against its schema. To add a route, add its `operation` here.
"""

from __future__ import annotations

from typing import Any

from spyglass import __version__, formats
from spyglass.protocol import MAX_TIMEOUT, MAX_TOP_K
from spyglass.web.api.openinference import HEADER_LENGTH
from spyglass.web.api.schemas import (
    BYTES,
    FLAG,
    SCHEMAS,
    TEXT,
    WHOLE,
    Json,
    record,
    schema,
    several,
)
from spyglass.web.api.tensors import MAX_IMAGES
from spyglass.web.http import problems
from spyglass.web.http.guard import HEALTH
from spyglass.web.http.response import JSON, PROBLEM

HTML = "text/html"
FORM = "multipart/form-data"
OCTETS = "application/octet-stream"
INFERENCE = "Open Inference Protocol"
#: Statuses with which a picture may fail, beside 500.
FAILURES = tuple(sorted({400, 413} | {kind.status for kind in problems.REASONS.values()}))


# --- the parts of an operation ----------------------------------------------------------------


def response(description: str, kind: str, content: Json) -> Json:
    """A response of this media type and schema."""
    return {"description": description, "content": {kind: {"schema": content}}}


def problem(status: int) -> Json:
    """A failure in our own form."""
    return response(problems.title_of(status), PROBLEM, schema("Problem"))


def torchserve_error(status: int) -> Json:
    """A failure in TorchServe's form."""
    return response(problems.title_of(status), JSON, schema("TorchServeError"))


def inference_error(status: int) -> Json:
    """A failure in the Open Inference Protocol's form."""
    return response(problems.title_of(status), JSON, schema("InferenceError"))


def operation(
    tag: str,
    summary: str,
    done: Json,
    *failures: int,
    failing: Any = problem,
    parameters: list[Json] | None = None,
    body: Json | None = None,
) -> Json:
    """One method of one path.

    Args:
        tag: the group it is shown in.
        summary: what it does, in one line.
        done: its response when it succeeds.
        failures: the statuses of its failures, beside 500.
        failing: makes the description of a failure from its status.
        parameters: from `parameter`.
        body: its request body.
    """
    answers = {"200": done, **{str(status): failing(status) for status in (*failures, 500)}}
    described: Json = {"tags": [tag], "summary": summary, "responses": answers}
    if parameters:
        described["parameters"] = parameters
    if body:
        described["requestBody"] = body
    return described


def parameter(where: str, name: str, content: Json, description: str) -> Json:
    """A parameter; one in the path is required."""
    described = {"name": name, "in": where, "schema": content, "description": description}
    return {**described, "required": True} if where == "path" else described


def picture_body(field: str) -> Json:
    """A picture as the body, or in a form's field."""
    form = {"schema": record(**{field: BYTES})}
    images = {kind: {"schema": BYTES} for kind in formats.MIME_TYPES.values()}
    return {"required": True, "content": {**images, FORM: form}}


def json_body(content: Json) -> Json:
    """A body of JSON."""
    return {"required": True, "content": {JSON: {"schema": content}}}


TOP_K = parameter(
    "query",
    "top_k",
    {"type": "integer", "minimum": 1, "maximum": MAX_TOP_K, "default": 5},
    "How many labels to answer.",
)
TIMEOUT = parameter(
    "query",
    "timeout_ms",
    {"type": "integer", "minimum": 1, "maximum": int(1000 * MAX_TIMEOUT)},
    "How long the answer may take, in milliseconds.",
)
MODEL = parameter("query", "model", TEXT, "Which model to ask; the default one if left out.")
PAGE = response("A page.", HTML, TEXT)
HEALTHY = record({"workers": WHOLE}, status=TEXT)
NAME_IN_PATH = parameter("path", "model", TEXT, "The model's name, such as `squeezenet1_1`.")
VERSION_IN_PATH = parameter("path", "version", TEXT, "The only version is `1.0`.")


def _form_page() -> Json:
    """Answers with a page whatever happens: it is for browsers without JavaScript."""
    return operation(
        "pages",
        "Recognise a picture and show the upload page with the answer",
        PAGE,
        *FAILURES,
        failing=_page_or_problem,
        parameters=[TOP_K, MODEL, TIMEOUT],
        body=picture_body("image"),
    )


def _page_or_problem(status: int) -> Json:
    described = problem(status)
    described["content"][HTML] = {"schema": TEXT}
    return described


def _predict(*path: Json) -> Json:
    return operation(
        "TorchServe",
        "Recognise a picture",
        response("The labels.", JSON, schema("TorchServeLabels")),
        *(status for status in FAILURES if status != 502),
        failing=torchserve_error,
        parameters=[*path, TOP_K, TIMEOUT],
        body=picture_body("data"),
    )


def _describe(*path: Json) -> Json:
    return operation(
        "TorchServe",
        "Describe a model and its workers",
        response("The model.", JSON, several(schema("TorchServeModel"))),
        404,
        503,
        failing=torchserve_error,
        parameters=[*path],
    )


def _inference(summary: str, done: Json, *path: Json) -> Json:
    """A GET of the Open Inference Protocol; those about a model have `path`."""
    failures = (404, 503) if path else ()
    described = operation(
        INFERENCE, summary, done, *failures, failing=inference_error, parameters=[*path]
    )
    return {"get": described}


def _readiness(summary: str, properties: Json, *path: Json) -> Json:
    ready = record(**properties, ready=FLAG)
    described = _inference(summary, response("Ready.", JSON, ready), *path)
    not_ready = {"anyOf": [ready, schema("InferenceError")]}
    described["get"]["responses"]["503"] = response("Not ready.", JSON, not_ready)
    return described


def _infer(*path: Json) -> Json:
    done = response("The tensors.", JSON, schema("InferenceAnswer"))
    done["content"][OCTETS] = {"schema": BYTES}
    body = json_body(schema("InferenceRequest"))
    body["content"][OCTETS] = {"schema": BYTES}
    header = parameter(
        "header", HEADER_LENGTH, WHOLE, "Bytes of the JSON, if binary tensors follow it."
    )
    return {
        "post": operation(
            INFERENCE,
            f"Recognise up to {MAX_IMAGES} pictures",
            done,
            *FAILURES,
            failing=inference_error,
            parameters=[*path, header],
            body=body,
        )
    }


def _inference_paths() -> dict[str, Json]:
    """All of the Open Inference Protocol."""
    server = record(name=TEXT, version=TEXT, extensions=several(TEXT))
    paths = {
        "/v2": _inference("The server", response("The server.", JSON, server)),
        "/v2/health/live": _inference(
            "Whether the web is alive", response("The web is alive.", JSON, record(live=FLAG))
        ),
        "/v2/health/ready": _readiness("Whether a worker of the default model is ready", {}),
    }
    model = response("The model.", JSON, schema("InferenceModel"))
    version = (NAME_IN_PATH, parameter("path", "version", TEXT, "The only version is `1`."))
    for start, path in (("", (NAME_IN_PATH,)), ("/versions/{version}", version)):
        start = "/v2/models/{model}" + start
        paths[start] = _inference("A model's inputs and outputs", model, *path)
        paths[f"{start}/ready"] = _readiness(
            "Whether a worker has the model", {"name": TEXT}, *path
        )
        paths[f"{start}/infer"] = _infer(*path)
    return paths


def _page(summary: str) -> Json:
    return {"get": operation("pages", summary, PAGE)}


def _health(summary: str) -> Json:
    return {"get": operation("health", summary, response("Healthy.", JSON, HEALTHY), 503)}


def _admin(summary: str, *failures: int, **more: Any) -> Json:
    done = response("What was done.", JSON, schema("Done"))
    described = operation("fleet", summary, done, 401, 403, *failures, 429, 503, **more)
    return {**described, "security": [{"adminToken": []}, {}]}  # on loopback it may be left out


# --- the routes -------------------------------------------------------------------------------

DESCRIPTION = response("OpenAPI 3.1.", JSON, {"type": "object"})
WORKER = parameter("path", "worker_id", TEXT, "A worker's `id` from /v1/status.")
NOW = parameter("query", "now", {"enum": ["0", "1"]}, "1: do not wait for its work to be done.")
SHA256 = parameter("path", "sha256", TEXT, "The picture's `sha256` from /v1/status.")
FILE = parameter("path", "path", TEXT, "A file's path, which may contain slashes.")
PICTURE_ANSWER = response("What the picture shows.", JSON, schema("Answer"))
ADDRESS = record(address={**TEXT, "examples": ["tcp://192.168.1.7:8888"]})
JOINING = record({"name": {**TEXT, "examples": ["kitchen"]}})
MODELS = record({"nextPageToken": TEXT}, models=several(record(modelName=TEXT, modelUrl=TEXT)))
PING = {"status": {"enum": ["Healthy", "Unhealthy"]}}

PATHS: dict[str, Json] = {
    "/": {
        "get": operation("pages", "The upload page", PAGE),
        "post": _form_page(),
        "options": operation("TorchServe", "The API described", DESCRIPTION),
    },
    "/camera": _page("The camera page"),
    "/status": _page("The status page"),
    "/static/{path}": {
        "get": operation(
            "pages",
            "A file of the pages",
            response("A file.", "*/*", BYTES),
            404,
            parameters=[FILE],
        )
    },
    "/v1/classify": {
        "post": operation(
            "pictures",
            "Recognise a picture",
            PICTURE_ANSWER,
            *FAILURES,
            parameters=[TOP_K, MODEL, TIMEOUT],
            body=picture_body("image"),
        )
    },
    "/v1/status": {
        "get": operation(
            "fleet",
            "The broker's snapshot of the fleet",
            response("The fleet.", JSON, schema("Status")),
            503,
        )
    },
    "/v1/workers": {
        "post": _admin("Dial out to a listening worker", 400, 415, body=json_body(ADDRESS))
    },
    "/v1/join": {
        "post": _admin("Create the command that joins a worker", 400, 415, body=json_body(JOINING))
    },
    "/v1/workers/{worker_id}": {
        "delete": _admin("Drain a worker, or remove it at once", 404, parameters=[WORKER, NOW])
    },
    "/v1/quarantine": {"delete": _admin("Clear the whole quarantine")},
    "/v1/quarantine/{sha256}": {
        "delete": _admin("Take one picture out of quarantine", 404, parameters=[SHA256])
    },
    "/livez": _health("Whether the web is alive"),
    "/readyz": _health("Whether a worker of the default model is ready"),
    "/healthz": _health("The same as /readyz"),
    "/metrics": {
        "get": operation(
            "health", "Figures for Prometheus", response("Figures.", "text/plain", TEXT)
        )
    },
    "/openapi.json": {"get": operation("health", "The API described", DESCRIPTION)},
    "/predictions/{model}": {method: _predict(NAME_IN_PATH) for method in ("post", "put")},
    "/predictions/{model}/{version}": {
        method: _predict(NAME_IN_PATH, VERSION_IN_PATH) for method in ("post", "put")
    },
    "/ping": {
        "get": operation(
            "TorchServe",
            "Whether a worker of the default model is ready",
            response("Healthy.", JSON, record(**PING)),
            failing=lambda _: response(
                "Unhealthy.", JSON, {"anyOf": [record(**PING), schema("TorchServeError")]}
            ),
        )
    },
    "/models": {
        "get": operation(
            "TorchServe",
            "List the models",
            response("The models.", JSON, MODELS),
            503,
            failing=torchserve_error,
            parameters=[
                parameter("query", "limit", WHOLE, "Models on a page, 100 at most."),
                parameter("query", "next_page_token", TEXT, "`nextPageToken` of the page before."),
            ],
        )
    },
    "/models/{model}": {"get": _describe(NAME_IN_PATH)},
    "/models/{model}/{version}": {"get": _describe(NAME_IN_PATH, VERSION_IN_PATH)},
    **_inference_paths(),
}


for _path, _methods in PATHS.items():
    for _described in _methods.values():
        if _path not in HEALTH:  # may be called by any name: see http/guard.py
            forbidden = {**_described["responses"]["500"], "description": problems.title_of(403)}
            _described["responses"].setdefault("403", forbidden)


def document() -> Json:
    """The whole description."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Spyglass",
            "version": __version__,
            "description": "Self-hosted image recognition. See docs/api.md.",
        },
        "paths": PATHS,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"adminToken": {"type": "http", "scheme": "bearer"}},
        },
    }
