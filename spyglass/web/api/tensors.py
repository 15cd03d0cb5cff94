"""Bodies of the Open Inference Protocol: images in a request, tensors in its response.

A body is JSON, or JSON followed by the tensors' bytes in the same order (the binary tensor data
extension). There an element of a BYTES tensor is its length, 4 bytes little-endian, and its bytes;
in JSON, which cannot hold an image's bytes, it is base64. Pure: no I/O, no clock.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from dataclasses import dataclass
from typing import Any

from spyglass.protocol import MAX_TIMEOUT, MAX_TOP_K
from spyglass.web.http import problems

#: Images in one request; each counts as a picture being processed.
MAX_IMAGES = 16
#: Bytes of the JSON before binary tensors.
MAX_HEADER = 64 * 1024
#: Values in the JSON, by its commas and brackets. Each takes Python a tenth of a microsecond,
#: and Python reads JSON in one go: a million would hold up every other request for a second.
MAX_VALUES = 10_000
#: Bytes of the length before each element of a BYTES tensor.
LENGTH_BYTES = 4
#: Names of the one input and of the outputs.
INPUT = "image"
OUTPUTS = ("labels", "probabilities")
#: Labels for an image unless the request says how many.
DEFAULT_TOP_K = 5

Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """An output that a request asks for."""

    name: str
    binary: bool
    top_k: int
    classification: bool = False  # as "probability:index:label" (the classification extension)


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request, checked."""

    images: list[bytes]
    outputs: list[RequestedOutput]
    id: str = ""
    timeout: float | None = None  # seconds

    @property
    def top_k(self) -> int:
        """How many labels are needed for all its outputs."""
        return max(wanted.top_k for wanted in self.outputs)


# --- in ---------------------------------------------------------------------------------------


def decode(body: bytes, header: str | None) -> InferRequest:
    """The request that a body holds.

    Args:
        body: all of it.
        header: Inference-Header-Content-Length, the bytes of its JSON; None where all is JSON,
            "0" where all is one image.

    Raises:
        problems.Problem: 400, with what is wrong with it.
    """
    length = len(body)
    if header is not None:
        if not (header.isascii() and header.isdigit() and len(header) < 10):
            raise problems.malformed("Inference-Header-Content-Length is not a number.")
        length = int(header)
        if length > len(body):
            raise problems.malformed("Inference-Header-Content-Length is more than the body.")
        if length > MAX_HEADER:
            raise problems.malformed(f"The JSON before binary tensors has {MAX_HEADER} bytes most.")
        if length == 0:
            return InferRequest([body], _outputs(None, DEFAULT_TOP_K, binary=False))
    if sum(body.count(sign, 0, length) for sign in (b",", b"[", b"{")) > MAX_VALUES:
        raise problems.malformed(f"The JSON holds more than {MAX_VALUES} values.")
    try:
        document = json.loads(body[:length])
    except (ValueError, RecursionError):
        raise problems.malformed("The request is not JSON.") from None
    _expect(isinstance(document, dict), "The request is not a JSON object.")
    parameters = _parameters(document, "the request")
    top_k = _whole(parameters, "top_k", DEFAULT_TOP_K, MAX_TOP_K)
    longest = int(1e6 * MAX_TIMEOUT)
    microseconds = _whole(parameters, "timeout", 0, longest) if "timeout" in parameters else 0
    binary = parameters.get("binary_data_output", False) is True
    id = document.get("id", "")
    _expect(isinstance(id, str), "`id` must be a string.")
    return InferRequest(
        _images(document.get("inputs"), memoryview(body)[length:]),
        _outputs(document.get("outputs"), top_k, binary),
        id,
        microseconds / 1e6 if microseconds else None,
    )


def _images(inputs: Any, binary: memoryview) -> list[bytes]:
    _expect(isinstance(inputs, list) and len(inputs) == 1, f"Send one input, named `{INPUT}`.")
    tensor = inputs[0]
    _expect(isinstance(tensor, dict), "The input must be an object.")
    name, datatype, shape = (tensor.get(key) for key in ("name", "datatype", "shape"))
    _expect(name == INPUT, f"The model has no such input; its only one is `{INPUT}`.")
    _expect(datatype == "BYTES", f"`{INPUT}` has datatype BYTES: each element is an image file.")
    counted = isinstance(shape, list) and 1 <= len(shape) <= 2 and all(map(_is_count, shape))
    _expect(counted, f"The shape of `{INPUT}` is [n] or [n, 1].")
    count = math.prod(shape)
    _expect(
        1 <= count <= MAX_IMAGES and shape[0] == count,
        f"Send from 1 to {MAX_IMAGES} images in one request, as shape [n] or [n, 1].",
    )
    parameters = _parameters(tensor, "the input")
    if "binary_data_size" in parameters:
        size = parameters["binary_data_size"]
        _expect(
            _is_count(size) and size == len(binary) and "data" not in tensor,
            "`binary_data_size` is not the number of bytes that follow the JSON.",
        )
        images = _elements(binary)
    else:
        _expect(not binary, "Bytes follow the JSON that belong to no input.")
        data = tensor.get("data")
        while isinstance(data, list) and data and isinstance(data[0], list):  # may be nested
            _expect(all(isinstance(row, list) for row in data), "`data` is uneven.")
            _expect(len(data) <= MAX_IMAGES, "`data` has more elements than its shape says.")
            data = [element for row in data for element in row]
        _expect(isinstance(data, list), "The input holds no `data`.")
        images = [_from_base64(element) for element in data[: MAX_IMAGES + 1]]
    _expect(
        len(images) == count, f"The shape says {count} images, but the input holds another number."
    )
    return images


def _elements(binary: memoryview) -> list[bytes]:
    """The elements of a binary BYTES tensor, up to one more than allowed."""
    elements: list[bytes] = []
    at = 0
    while at < len(binary) and len(elements) <= MAX_IMAGES:
        left = len(binary) - at - LENGTH_BYTES
        size = struct.unpack_from("<I", binary, at)[0] if left >= 0 else 1
        _expect(size <= left, "The binary tensor ends within an element.")
        at += LENGTH_BYTES + size
        elements.append(bytes(binary[at - size : at]))
    return elements


def _from_base64(element: Any) -> bytes:
    try:
        return base64.b64decode(element, validate=True)
    except (ValueError, TypeError):
        raise problems.malformed(
            "In JSON each image is a string of base64. Send its bytes as binary tensor data."
        ) from None


def _outputs(outputs: Any, top_k: int, binary: bool) -> list[RequestedOutput]:
    if outputs is None or outputs == []:
        return [RequestedOutput(name, binary, top_k) for name in OUTPUTS]
    _expect(isinstance(outputs, list), "`outputs` must be an array.")
    wanted: list[RequestedOutput] = []
    for output in outputs:
        _expect(isinstance(output, dict), "Each of `outputs` must be an object.")
        name = output.get("name")
        _expect(name in OUTPUTS, f"The model has no such output; it has {' and '.join(OUTPUTS)}.")
        _expect(all(name != other.name for other in wanted), f"`{name}` is asked for twice.")
        parameters = _parameters(output, "the output")
        classes = _whole(parameters, "classification", 0, MAX_TOP_K)
        as_binary = parameters.get("binary_data", binary) is True
        wanted.append(RequestedOutput(name, as_binary, classes or top_k, bool(classes)))
    return wanted


def _expect(holds: object, otherwise: str) -> None:
    """Refuse the request with this sentence unless the condition holds."""
    if not holds:
        raise problems.malformed(otherwise)


def _is_count(value: object) -> bool:
    """Whether it is a whole number, not below 0; a bool is not."""
    return type(value) is int and value >= 0


def _parameters(holder: dict[str, Any], whose: str) -> dict[str, Any]:
    parameters: dict[str, Any] = holder.get("parameters", {})
    _expect(isinstance(parameters, dict), f"`parameters` of {whose} must be an object.")
    _expect(
        not any(name.startswith("shared_memory") for name in parameters),
        "Shared memory is not supported: send the bytes.",
    )
    return parameters


def _whole(parameters: dict[str, Any], name: str, default: int, high: int) -> int:
    value = parameters.get(name, default)
    if name in parameters:
        _expect(
            _is_count(value) and 1 <= value <= high, f"`{name}` must be a number from 1 to {high}."
        )
    return int(value)


# --- out --------------------------------------------------------------------------------------


def encode(
    head: dict[str, Any], outputs: list[RequestedOutput], rows: list[Rows]
) -> tuple[bytes, int]:
    """The body of a response, and the length of its JSON; the rest are binary tensors.

    Args:
        head: the response's fields other than its outputs.
        outputs: those that were asked for.
        rows: for each image its predictions, the likeliest first.
    """
    tensors: list[bytes] = []
    described = []
    for wanted in outputs:
        k = min(wanted.top_k, min(map(len, rows)))
        values = [_value(row, wanted) for image in rows for row in image[:k]]
        is_text = wanted.classification or wanted.name == "labels"
        tensor: dict[str, Any] = {
            "name": wanted.name,
            "datatype": "BYTES" if is_text else "FP32",
            "shape": [len(rows), k],
        }
        if wanted.binary:
            tensors.append(_binary(values, is_text))
            tensor["parameters"] = {"binary_data_size": len(tensors[-1])}
        else:
            tensor["data"] = values
        described.append(tensor)
    text = json.dumps({**head, "outputs": described}).encode()
    return b"".join((text, *tensors)), len(text)


def _value(row: dict[str, Any], wanted: RequestedOutput) -> Any:
    if wanted.classification:
        return f"{row['probability']:f}:{row['index']}:{row['label']}"
    return row["label"] if wanted.name == "labels" else row["probability"]


def _binary(values: list[Any], is_text: bool) -> bytes:
    if not is_text:
        return struct.pack(f"<{len(values)}f", *values)
    texts = [value.encode() for value in values]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)
