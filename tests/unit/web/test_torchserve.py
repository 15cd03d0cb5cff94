"""TorchServe's clients get what TorchServe would answer."""

from __future__ import annotations

from typing import Any

import pytest
from calling_web import FORM, LIMIT, Site, form, jpeg

from spyglass.client.session import RequestFailed
from spyglass.protocol import Reason

PREDICT = "/predictions/squeezenet1_1"


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("path", [PREDICT, f"{PREDICT}/1.0"])
def test_a_picture_is_answered_with_labels_and_probabilities(
    site: Site, method: str, path: str
) -> None:
    answer = site(method, path, jpeg())
    assert (answer.status, answer.json) == (200, {"<b>cat</b>": 0.75})
    assert answer.headers["Content-Type"] == "application/json"
    assert site.fleet.asked == [(jpeg(), "squeezenet1_1", 5, 5.0)]


@pytest.mark.parametrize("field", ["data", "body"])
def test_the_picture_may_come_in_a_forms_field(site: Site, field: str) -> None:
    assert site("POST", PREDICT, form(jpeg(), field), **FORM).json == {"<b>cat</b>": 0.75}


def test_the_model_in_the_path_wins_over_one_in_the_query(site: Site) -> None:
    site("POST", "/predictions/attic?model=cellar", jpeg())
    assert site.fleet.asked[0][1] == "attic"


def test_of_two_classes_with_one_label_the_likelier_counts(site: Site) -> None:
    site.fleet.rows = [
        {"label": "crane", "index": 134, "probability": 0.5},
        {"label": "crane", "index": 517, "probability": 0.25},
        {"label": "maillot", "index": 638, "probability": 0.125},
    ]
    labels = site("POST", PREDICT, jpeg()).json
    assert list(labels.items()) == [("crane", 0.5), ("maillot", 0.125)]


@pytest.mark.parametrize(
    ("method", "path", "status", "kind", "message"),
    [
        ("POST", f"{PREDICT}/2.0", 404, "ModelVersionNotFoundException",
         "Model version: 2.0 does not exist for model: squeezenet1_1"),
        ("GET", "/models/nobody", 404, "ModelNotFoundException", "Model not found: nobody"),
        ("GET", "/models/squeezenet1_1/2.0", 404, "ModelVersionNotFoundException",
         "Model version: 2.0 does not exist for model: squeezenet1_1"),
        ("POST", "/predictions", 404, "ResourceNotFoundException",
         "Requested resource is not found, please refer to API document."),
        ("POST", f"{PREDICT}/1.0/explain", 404, "ResourceNotFoundException",
         "Requested resource is not found, please refer to API document."),
        ("POST", "/models", 405, "MethodNotAllowedException",
         "Requested method is not allowed, please refer to API document."),
        ("DELETE", "/models/squeezenet1_1", 405, "MethodNotAllowedException",
         "Requested method is not allowed, please refer to API document."),
    ],
)  # fmt: skip
def test_failures_have_torchserves_fields_codes_and_sentences(
    site: Site, method: str, path: str, status: int, kind: str, message: str
) -> None:
    answer = site(method, path, jpeg())
    assert (answer.status, answer.json) == (
        status,
        {"code": status, "type": kind, "message": message},
    )
    assert status != 405 or answer.headers["Allow"] == "GET"
    assert not site.fleet.asked


@pytest.mark.parametrize(
    ("reason", "status", "kind"),
    [
        (Reason.NO_MODEL, 404, "ModelNotFoundException"),
        (Reason.BUSY, 503, "ServiceUnavailableException"),
        (Reason.NO_WORKERS, 503, "ServiceUnavailableException"),
        (Reason.BAD_IMAGE, 422, "InternalServerException"),
        (Reason.CRASH, 500, "InternalServerException"),
        (Reason.DEADLINE, 504, "InternalServerException"),
    ],
)
def test_every_failure_of_the_fleet_has_its_code(
    site: Site, reason: Reason, status: int, kind: str
) -> None:
    site.fleet.failure = RequestFailed(reason, "A sentence.")
    answer = site("POST", PREDICT, jpeg())
    assert answer.status == answer.json["code"] == status
    assert answer.json["type"] == kind
    assert ("Retry-After" in answer.headers) == (status == 503)


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (b"", 400, "BadRequestException"),
        (b"text", 415, "InternalServerException"),
        (jpeg(LIMIT + 1), 413, "InternalServerException"),
        (jpeg(LIMIT), 200, None),
    ],
)
def test_uploads_have_the_same_limits_as_elsewhere(
    site: Site, body: bytes, status: int, kind: str | None
) -> None:
    answer = site("POST", PREDICT, body)
    assert (answer.status, answer.json.get("type")) == (status, kind)


def test_a_bug_is_answered_without_its_details(site: Site) -> None:
    site.fleet.failure = ValueError("secret")
    answer = site("POST", PREDICT, jpeg())
    assert (answer.json["code"], answer.json["type"]) == (500, "InternalServerException")
    assert b"secret" not in answer.body


def test_ping_is_healthy_while_a_worker_serves_the_default_model(site: Site) -> None:
    assert (site("GET", "/ping").status, site("GET", "/ping").json) == (200, {"status": "Healthy"})
    site.fleet.workers = 0
    assert (site("GET", "/ping").status, site("GET", "/ping").json) == (
        500,
        {"status": "Unhealthy"},
    )
    site.fleet.failure = RequestFailed(Reason.NO_BROKER, "No broker answers.")
    assert site("GET", "/ping").json == {"status": "Unhealthy"}


def test_models_are_listed_in_pages(site: Site) -> None:
    assert site("GET", "/models").json == {
        "models": [{"modelName": "squeezenet1_1", "modelUrl": "cd" * 32}]
    }
    site.fleet.more_models = ["attic", "cellar"]
    first = site("GET", "/models?limit=2").json
    assert [model["modelName"] for model in first["models"]] == ["attic", "cellar"]
    second = site("GET", f"/models?limit=2&next_page_token={first['nextPageToken']}").json
    assert [model["modelName"] for model in second["models"]] == ["squeezenet1_1"]
    assert "nextPageToken" not in second


@pytest.mark.parametrize("query", ["limit=x", "limit=101", "limit=-1", "next_page_token=-1"])
def test_an_impossible_page_of_the_list_is_the_first_one(site: Site, query: str) -> None:
    assert len(site("GET", f"/models?{query}").json["models"]) == 1


@pytest.mark.parametrize("version", ["", "/1.0", "/all"])
def test_a_model_is_described_with_its_workers(site: Site, version: str) -> None:
    described: list[dict[str, Any]] = site("GET", f"/models/squeezenet1_1{version}").json
    assert len(described) == 1
    model = described[0]
    assert (model["modelName"], model["modelVersion"]) == ("squeezenet1_1", "1.0")
    assert (model["minWorkers"], model["maxWorkers"]) == (2, 2)
    assert [worker["status"] for worker in model["workers"]] == ["READY", "UNLOADING"]
    assert model["jobQueueStatus"] == {"remainingCapacity": 97, "pendingRequests": 3}
