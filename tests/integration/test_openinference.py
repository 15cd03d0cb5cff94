"""The Open Inference Protocol: bodies by hand, and Triton's own client against real processes."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from calling_web import LIMIT, Site, asking, jpeg
from tritonclient.utils import InferenceServerException

from spyglass.client.session import Answer, RequestFailed
from spyglass.protocol import MAX_TOP_K, Reason
from spyglass.web.api import classify
from spyglass.web.api.openinference import body_limit
from spyglass.web.api.tensors import MAX_HEADER, MAX_IMAGES, MAX_VALUES
from spyglass.web.http.request import Request
from testbed.fleet import Site as RealSite
from testbed.processes import eventually
from testbed.stand_in import MARK

MODEL = "/v2/models/squeezenet1_1"
INFER = f"{MODEL}/infer"


@pytest.fixture
def app() -> Site:
    return Site()


def binary(*images: bytes, pad: int = 0, **other: Any) -> tuple[bytes, dict[str, Any]]:
    """A request with its images behind the JSON, and its header."""
    raw = b"".join(struct.pack("<I", len(image)) + image for image in images)
    parameters = {"binary_data_size": len(raw)}
    tensor = {"name": "image", "datatype": "BYTES", "shape": [len(images)]}
    head = json.dumps({"inputs": [{**tensor, "parameters": parameters, **other}]}).encode()
    head = head.ljust(pad)
    return head + raw, {"inference_header_content_length": str(len(head))}


# --- by hand ----------------------------------------------------------------------------------


def test_an_image_in_json_is_base64_and_is_answered_with_tensors(app: Site) -> None:
    answer = app("POST", INFER, asking(jpeg(), parameters={"top_k": 3, "timeout": 2_000_000}))
    assert (answer.status, answer.headers["X-Request-Id"]) == (200, "ab" * 16)
    assert answer.json == {
        "model_name": "squeezenet1_1",
        "model_version": "1",
        "outputs": [
            {"name": "labels", "datatype": "BYTES", "shape": [1, 1], "data": ["<b>cat</b>"]},
            {"name": "probabilities", "datatype": "FP32", "shape": [1, 1], "data": [0.75]},
        ],
    }
    assert app.fleet.asked == [(jpeg(), "squeezenet1_1", 3, 2.0)]


def test_a_body_without_json_is_one_image(app: Site) -> None:
    answer = app("POST", INFER, jpeg(), inference_header_content_length="0")
    assert answer.json["outputs"][0]["data"] == ["<b>cat</b>"]


def test_nested_data_and_a_shape_of_a_column_are_the_same_images(app: Site) -> None:
    nested = [[base64.b64encode(jpeg()).decode()]] * 2
    answer = app("POST", INFER, asking(jpeg(), shape=[2, 1], data=nested))
    assert answer.json["outputs"][1]["shape"] == [2, 1]


def test_each_output_may_be_asked_for_in_its_own_form(app: Site) -> None:
    app.fleet.rows = [
        {"label": f"é{n}", "index": n, "probability": 0.5 / (n + 1)} for n in range(5)
    ]
    outputs = [
        {"name": "probabilities", "parameters": {"binary_data": True}},
        {"name": "labels", "parameters": {"classification": 2}},
    ]
    answer = app("POST", INFER, asking(jpeg(), outputs=outputs, parameters={"top_k": 3}))
    length = int(answer.headers["Inference-Header-Content-Length"])
    told = json.loads(answer.body[:length])["outputs"]
    assert struct.unpack("<3f", answer.body[length:]) == pytest.approx([0.5, 0.25, 0.5 / 3])
    assert told[0]["parameters"] == {"binary_data_size": 12}
    assert told[1]["data"] == ["0.500000:0:é0", "0.250000:1:é1"]
    assert app.fleet.asked[0][2] == 3


@pytest.mark.parametrize("count", [0, 1, MAX_IMAGES, MAX_IMAGES + 1])
def test_a_request_holds_a_bounded_number_of_images(app: Site, count: int) -> None:
    status = 200 if 1 <= count <= MAX_IMAGES else 400
    images = [jpeg()] * count
    assert app("POST", INFER, asking(*images)).status == status
    body, header = binary(*images)
    assert app("POST", INFER, body, **header).status == status


@pytest.mark.parametrize(("more", "status"), [(0, 200), (1, 400)])
def test_the_json_before_binary_images_is_bounded(app: Site, more: int, status: int) -> None:
    body, header = binary(jpeg(), pad=MAX_HEADER + more)
    assert app("POST", INFER, body, **header).status == status


@pytest.mark.parametrize(("size", "status"), [(LIMIT, 200), (LIMIT + 1, 413)])
def test_each_image_is_bounded_like_any_upload(app: Site, size: int, status: int) -> None:
    assert app("POST", INFER, asking(jpeg(size))).status == status


@pytest.mark.parametrize(("more", "status"), [(0, 200), (1, 413)])
def test_a_request_is_bounded_in_bytes(app: Site, more: int, status: int) -> None:
    body = asking(jpeg()).ljust(body_limit(LIMIT) + more)
    assert app("POST", INFER, body).status == status


@pytest.mark.parametrize("number", [0, 1, MAX_TOP_K, MAX_TOP_K + 1])
def test_the_number_of_labels_is_bounded(app: Site, number: int) -> None:
    status = 200 if 1 <= number <= MAX_TOP_K else 400
    assert app("POST", INFER, asking(jpeg(), parameters={"top_k": number})).status == status
    outputs = [{"name": "labels", "parameters": {"classification": number}}]
    assert app("POST", INFER, asking(jpeg(), outputs=outputs)).status == status


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"5", b"[" * 50_000, b"\xff\xfe", b"9" * 5_000, b"{}",
        b'{"inputs": {}}', b'{"inputs": []}', b'{"inputs": [1]}', b'{"inputs": [{}]}',
        b'{"inputs": [{}, {}]}', b'{"id": 5, "inputs": []}',
        asking(jpeg(), name="other"), asking(jpeg(), datatype="UINT8"),
        asking(jpeg(), shape=None), asking(jpeg(), shape=[]), asking(jpeg(), shape=[True]),
        asking(jpeg(), shape=[2]), asking(jpeg(), shape=[1, 1, 1]), asking(jpeg(), shape=[-1]),
        asking(jpeg(), jpeg(), shape=[1, 2]), asking(jpeg(), shape=[10**400]),
        asking(jpeg(), data=None), asking(jpeg(), data={}), asking(jpeg(), data=[]),
        asking(jpeg(), data=[5]), asking(jpeg(), data=["ö"]), asking(jpeg(), data=["a"]),
        asking(jpeg(), data=[["aaaa"], 5]), asking(jpeg(), parameters=[]),
        asking(jpeg(), parameters={"top_k": True}), asking(jpeg(), parameters={"top_k": "5"}),
        asking(jpeg(), parameters={"timeout": 0}), asking(jpeg(), outputs={}),
        asking(jpeg(), outputs=[5]), asking(jpeg(), outputs=[{"name": "other"}]),
        asking(jpeg(), outputs=[{"name": []}]), asking(jpeg(), outputs=[{"name": "labels"}] * 2),
        binary(jpeg())[0],
        asking(jpeg(), outputs=[{"name": "labels", "parameters": {"shared_memory_region": "a"}}]),
    ],
)  # fmt: skip
def test_a_bad_request_is_refused_with_a_sentence_and_reaches_no_worker(
    app: Site, body: bytes
) -> None:
    answer = app("POST", INFER, body)
    assert answer.status == 400
    assert list(answer.json) == ["error"]
    assert not app.fleet.asked


@pytest.mark.parametrize(
    "header", ["-1", "x", "9999999999", "1", str(len(binary(jpeg())[0]) + 1), "²"]
)
def test_a_wrong_length_of_the_json_is_refused(app: Site, header: str) -> None:
    body, _ = binary(jpeg())
    assert app("POST", INFER, body, inference_header_content_length=header).status == 400


@pytest.mark.parametrize(
    "cut", [{"parameters": {"binary_data_size": 5}}, {"shape": [2]}, {"data": []}]
)
def test_binary_data_that_does_not_fit_is_refused(app: Site, cut: dict[str, Any]) -> None:
    body, header = binary(jpeg(), **cut)
    assert app("POST", INFER, body, **header).status == 400


@pytest.mark.parametrize("raw", [b"\1", b"\1\0\0\0", b"\5\0\0\0abcd", b"\xff\xff\xff\xffabc"])
def test_an_element_that_ends_early_is_refused(app: Site, raw: bytes) -> None:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1]}
    parameters = {"binary_data_size": len(raw)}
    head = json.dumps({"inputs": [{**tensor, "parameters": parameters}]}).encode()
    header: dict[str, Any] = {"inference_header_content_length": str(len(head))}
    assert app("POST", INFER, head + raw, **header).status == 400


def test_what_is_no_picture_is_named(app: Site) -> None:
    answer = app("POST", INFER, asking(jpeg(), b"text"))
    assert (answer.status, answer.json["error"][:15]) == (415, "Image 2 of 2: S")
    assert not app.fleet.asked


def test_a_compressed_request_is_refused(app: Site) -> None:
    assert app("POST", INFER, asking(jpeg()), content_encoding="gzip").status == 415


def test_images_beyond_the_places_left_get_busy_and_places_come_back(
    app: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classify, "MAX_IN_FLIGHT", 3)
    for _ in range(2):
        assert app("POST", INFER, asking(*[jpeg()] * 3)).status == 200
        assert app("POST", INFER, asking(*[jpeg()] * 4)).status == 503


def test_where_no_place_is_left_the_images_are_not_even_read(
    app: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def reading(request: Request) -> tuple[bytes, bool]:
        raise AssertionError("the body is read")

    monkeypatch.setattr(classify, "MAX_IN_FLIGHT", 0)
    monkeypatch.setattr(Request, "next_part", reading)
    assert app("POST", INFER, asking(jpeg())).status == 503


def test_a_client_that_hangs_up_cancels_all_its_images(app: Site) -> None:
    app.fleet.hangs = True
    asyncio.run(app.ask("POST", INFER, asking(jpeg(), jpeg()), hangs_up=True))
    assert [future.cancelled() for future in app.fleet.futures] == [True, True]


def test_one_failure_fails_the_request_and_cancels_its_other_images(
    app: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = app.fleet.submit

    def only_the_second_fails(picture: bytes, **wishes: Any) -> asyncio.Future[Answer]:
        app.fleet.hangs = not app.fleet.futures
        return submit(picture, **wishes)

    monkeypatch.setattr(app.fleet, "submit", only_the_second_fails)
    app.fleet.failure = RequestFailed(Reason.BAD_IMAGE, "A sentence.")
    answer = app("POST", INFER, asking(jpeg(), jpeg()))
    assert (answer.status, answer.json) == (422, {"error": "Image 2 of 2: A sentence."})
    assert app.fleet.futures[0].cancelled()


@pytest.mark.parametrize(
    ("reason", "status"),
    [(Reason.NO_MODEL, 404), (Reason.BUSY, 503), (Reason.BAD_IMAGE, 422), (Reason.CRASH, 502)],
)
def test_failures_of_the_fleet_are_errors(app: Site, reason: Reason, status: int) -> None:
    app.fleet.failure = RequestFailed(reason, "A sentence.")
    answer = app("POST", INFER, asking(jpeg()))
    assert (answer.status, answer.json) == (status, {"error": "A sentence."})


def test_every_outcome_is_counted(app: Site) -> None:
    app("POST", INFER, b"{")
    app("POST", INFER, asking(jpeg(), jpeg()))
    app.fleet.failure = RequestFailed(Reason.CRASH, "A sentence.")
    app("POST", INFER, asking(jpeg(), jpeg()))
    figures = app("GET", "/metrics").body.decode()
    for outcome, count in (("malformed", 1), ("answered", 2), ("crash", 1)):
        assert f'spyglass_recognitions_total{{outcome="{outcome}"}} {count}.0' in figures


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2", 200),
        ("GET", "/v2/health/live", 200),
        ("GET", "/v2/health/ready", 200),
        ("GET", MODEL, 200),
        ("GET", f"{MODEL}/versions/1/ready", 200),
        ("GET", f"{MODEL}/versions/2/ready", 404),
        ("GET", "/v2/models/nobody", 404),
        ("GET", "/v2/models/no body/ready", 404),
        ("GET", f"{MODEL}/config", 404),
        ("GET", INFER, 405),
        ("POST", "/v2", 405),
        ("POST", "/v2/models/no body/infer", 404),
        ("POST", f"{MODEL}/versions/2/infer", 404),
        ("POST", f"{MODEL}/versions/1/infer", 200),
    ],
)
def test_every_address_answers_in_json(app: Site, method: str, path: str, status: int) -> None:
    answer = app(method, path, asking(jpeg()))
    assert answer.status == status
    assert status == 200 or list(answer.json) == ["error"]


def test_ready_means_that_a_worker_is_there(app: Site) -> None:
    app.fleet.workers = 0
    for path in ("/v2/health/ready", f"{MODEL}/ready"):
        answer = app("GET", path)
        assert (answer.status, answer.json["ready"]) == (503, False)


# --- Triton's client --------------------------------------------------------------------------


@pytest.fixture
def client(site: RealSite) -> Iterator[triton.InferenceServerClient]:
    site.launch_worker("attic")
    site.start_web()
    eventually(lambda: site.get("/readyz")[0] == 200, "the worker is ready")
    with triton.InferenceServerClient(f"127.0.0.1:{site.port}", concurrency=2) as client:
        yield client


def told_to(*words: str) -> list[triton.InferInput]:
    """The input of pictures for the stand-in."""
    images = np.array([jpeg() + MARK + word.encode() for word in words], dtype=np.object_)
    tensor = triton.InferInput("image", [len(words)], "BYTES")
    return [tensor.set_data_from_numpy(images)]


def test_tritons_client_works_unchanged(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("squeezenet1_1")
    assert client.is_model_ready("squeezenet1_1", "1")
    assert not client.is_model_ready("nobody")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata("squeezenet1_1")
    assert metadata["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]

    words = [f"label:{name}" for name in ("cat", "dog", "eel")]
    result = client.infer("squeezenet1_1", told_to(*words), request_id="seven")
    assert result.get_response()["id"] == "seven"
    assert result.as_numpy("labels")[:, 0].tolist() == [b"cat", b"dog", b"eel"]
    probabilities = result.as_numpy("probabilities")
    assert (probabilities.shape, probabilities.dtype) == ((3, 5), np.float32)

    outputs = [
        triton.InferRequestedOutput("labels", binary_data=False),
        triton.InferRequestedOutput("probabilities", class_count=2),
    ]
    result = client.infer("squeezenet1_1", told_to("label:cat"), "1", outputs=outputs)
    assert result.as_numpy("labels")[0, 0] == "cat"
    assert result.as_numpy("probabilities").tolist() == [[b"0.500000:0:cat", b"0.250000:1:label 1"]]

    promised = [client.async_infer("squeezenet1_1", told_to(word)) for word in words]
    first = [promise.get_result().as_numpy("labels")[0, 0] for promise in promised]
    assert first == [b"cat", b"dog", b"eel"]


def test_tritons_client_gets_what_is_wrong(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer("nobody", told_to("label:cat"))
    assert caught.value.status() == "404"
    with pytest.raises(
        InferenceServerException, match="Image 2 of 2: This is not a picture"
    ) as bad:
        client.infer("squeezenet1_1", told_to("label:cat", "bad"))
    assert bad.value.status() == "422"


@pytest.mark.parametrize(("more", "status"), [(0, 200), (1, 400)])
def test_json_of_too_many_values_is_refused_unread(app: Site, more: int, status: int) -> None:
    # Two objects, two lists, and their commas stand in a request already.
    plain = json.loads(asking(jpeg()))
    signs = sum(json.dumps(plain).count(sign) for sign in ",[{")
    plain["parameters"] = {"filler": [0] * (MAX_VALUES - signs - 3 + more + 1)}
    body = json.dumps(plain).encode()
    assert sum(body.count(sign) for sign in (b",", b"[", b"{")) == MAX_VALUES + more
    answer = app("POST", INFER, body)
    assert answer.status == status
    assert ("values" in answer.body.decode()) == bool(more)
