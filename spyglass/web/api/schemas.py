"""Schemas of what the HTTP API takes and answers (JSON Schema 2020-12, which OpenAPI 3.1 uses)."""

from __future__ import annotations

from typing import Any, TypeAlias

from spyglass.protocol import MAX_TIMEOUT, MAX_TOP_K
from spyglass.protocol.snapshot import Counters
from spyglass.web.api.tensors import DEFAULT_TOP_K, INPUT, MAX_IMAGES, OUTPUTS

Json: TypeAlias = dict[str, Any]

TEXT: Json = {"type": "string"}
WHOLE: Json = {"type": "integer", "minimum": 0}
NUMBER: Json = {"type": "number"}
SHARE: Json = {"type": "number", "minimum": 0, "maximum": 1}
FLAG: Json = {"type": "boolean"}
BYTES: Json = {"type": "string", "format": "binary"}
REQUEST_ID: Json = {"type": "string", "pattern": "^[0-9a-f]{32}$"}


def record(optional: Json | None = None, **properties: Json) -> Json:
    """The schema of an object that has all these properties, and may have the optional ones."""
    return {
        "type": "object",
        "required": list(properties),
        "properties": {**properties, **(optional or {})},
    }


def several(items: Json) -> Json:
    """The schema of an array."""
    return {"type": "array", "items": items}


def schema(name: str) -> Json:
    """A reference to one of SCHEMAS."""
    return {"$ref": f"#/components/schemas/{name}"}


TENSOR = record(name=TEXT, datatype=TEXT, shape=several({"type": "integer", "minimum": -1}))
LABELS: Json = {"type": "integer", "minimum": 1, "maximum": MAX_TOP_K}
INFER_PARAMETERS: Json = {
    "type": "object",
    "properties": {
        "top_k": {**LABELS, "default": DEFAULT_TOP_K},
        "timeout": {
            "type": "integer",
            "minimum": 1,
            "maximum": int(1e6 * MAX_TIMEOUT),
            "description": "How long the answer may take, in microseconds.",
        },
        "binary_data_output": FLAG,
    },
}
WANTED_OUTPUT = record(
    {
        "parameters": {
            "type": "object",
            "properties": {"binary_data": FLAG, "classification": LABELS},
        }
    },
    name={"enum": [*OUTPUTS]},
)

SCHEMAS: dict[str, Json] = {
    "Problem": {
        **record(
            type=TEXT,
            title=TEXT,
            status={"type": "integer", "minimum": 400, "maximum": 599},
            detail={**TEXT, "description": "A sentence for people."},
            code={**TEXT, "description": "A word for programs, such as `bad-image`."},
            request_id=REQUEST_ID,
            retryable={**FLAG, "description": "Whether the same request may succeed later."},
        ),
        "description": "A failure (RFC 9457).",
    },
    "Prediction": record(label=TEXT, index=WHOLE, probability=SHARE),
    "Answer": record(
        request_id=REQUEST_ID,
        model=TEXT,
        digest=TEXT,
        predictions={**several(schema("Prediction")), "description": "The likeliest first."},
        worker=TEXT,
        attempts={"type": "integer", "minimum": 1},
        timings_ms={"type": "object", "additionalProperties": NUMBER, "required": ["total"]},
    ),
    "Done": record(detail={**TEXT, "description": "What was done, as a sentence."}),
    "Worker": record(
        id=TEXT,
        name=TEXT,
        host=TEXT,
        pid=WHOLE,
        model=TEXT,
        digest=TEXT,
        state={"enum": ["ready", "busy", "draining", "ejected"]},
        processes=WHOLE,
        slots=WHOLE,
        credit=WHOLE,
        in_flight=WHOLE,
        done=WHOLE,
        failed=WHOLE,
        mean_ms={"type": ["number", "null"]},
        p50_ms={"type": ["number", "null"]},
        p95_ms={"type": ["number", "null"]},
        last_heartbeat_s=NUMBER,
        uptime_s=NUMBER,
    ),
    "Status": record(
        broker=record(version=TEXT, state={"enum": ["serving", "draining"]}, uptime_s=NUMBER),
        workers=several(schema("Worker")),
        departed=several(
            record(name=TEXT, host=TEXT, reason=TEXT, ago_s=NUMBER, done=WHOLE, failed=WHOLE)
        ),
        queue=record(
            waiting=WHOLE,
            waiting_bytes=WHOLE,
            max_waiting=WHOLE,
            oldest_wait_s=NUMBER,
            in_flight=WHOLE,
        ),
        models=several(record(name=TEXT, digest=TEXT, workers=WHOLE, waiting=WHOLE, default=FLAG)),
        counters=record(**dict.fromkeys(Counters.__annotations__, WHOLE)),
        trend=record(
            **{name: several(NUMBER) for name in ("ago_s", "waiting", "in_flight", "answered")}
        ),
        events=several(record(id=WHOLE, ago_s=NUMBER, text=TEXT, outcome=TEXT)),
        quarantine=several(
            record(sha256=TEXT, left_s=NUMBER, workers=several(TEXT), refused=WHOLE)
        ),
    ),
    "TorchServeLabels": {
        "type": "object",
        "additionalProperties": SHARE,
        "description": "Each label with its probability, the likeliest first.",
    },
    "TorchServeError": record(
        code={"type": "integer", "minimum": 400, "maximum": 599}, type=TEXT, message=TEXT
    ),
    "TorchServeModel": record(
        modelName=TEXT,
        modelVersion=TEXT,
        modelUrl=TEXT,
        runtime=TEXT,
        minWorkers=WHOLE,
        maxWorkers=WHOLE,
        maxBatchDelay=WHOLE,
        loadedAtStartup=FLAG,
        workers=several(
            record(
                id=TEXT,
                startTime={**TEXT, "format": "date-time"},
                status={"enum": ["READY", "UNLOADING"]},
                pid=WHOLE,
            )
        ),
        jobQueueStatus=record(remainingCapacity=WHOLE, pendingRequests=WHOLE),
    ),
    "InferenceRequest": {
        **record(
            {"id": TEXT, "parameters": INFER_PARAMETERS, "outputs": several(WANTED_OUTPUT)},
            inputs={
                "type": "array",
                "minItems": 1,
                "maxItems": 1,
                "items": record(
                    name={"const": INPUT},
                    datatype={"const": "BYTES"},
                    shape={
                        "type": "array",
                        "minItems": 1,
                        "maxItems": 2,
                        "items": {"type": "integer", "minimum": 1, "maximum": MAX_IMAGES},
                    },
                    data={
                        "type": "array",
                        "minItems": 1,
                        "maxItems": MAX_IMAGES,
                        "items": {**TEXT, "contentEncoding": "base64"},
                    },
                ),
            },
        ),
    },
    "InferenceAnswer": record(
        {"id": TEXT},
        model_name=TEXT,
        model_version=TEXT,
        outputs=several(
            record(
                {
                    "data": {"type": "array", "items": {"type": ["string", "number"]}},
                    "parameters": record(binary_data_size=WHOLE),
                },
                name={"enum": [*OUTPUTS]},
                datatype={"enum": ["BYTES", "FP32"]},
                shape=several(WHOLE),
            )
        ),
    ),
    "InferenceModel": record(
        name=TEXT,
        versions=several(TEXT),
        platform=TEXT,
        inputs=several(TENSOR),
        outputs=several(TENSOR),
    ),
    "InferenceError": record(error={**TEXT, "description": "A sentence for people."}),
}
