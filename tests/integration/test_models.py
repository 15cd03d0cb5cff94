"""Several models behind one broker, with real workers; and weights from a server."""

from __future__ import annotations

import hashlib
import http.server
import json
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torchvision
from made_weights import KNOWN, made_weights

from spyglass.model.classifier import Classifier
from spyglass.model.weights import ModelError
from testbed.fleet import CAT, REAL, Site
from testbed.processes import ROOT, eventually

SECOND = "mobilenet_v3_small"
ROCKET = (ROOT / "static" / "samples" / "rocket.jpg").read_bytes()


# --- a fleet of two models --------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "mine.pth"
    made_weights(SECOND, file)
    return file


def real_worker(site: Site, name: str, *flags: str, **more: Any) -> subprocess.Popen[bytes]:
    return site.launch_worker(name, *flags, program=REAL, **more)


@pytest.fixture(scope="module")
def both(weights: Path) -> Iterator[Site]:
    """A web and a broker, a worker with SqueezeNet and one with the other model."""
    site = Site()
    try:
        site.start_broker()
        site.start_web()
        real_worker(site, "attic")
        real_worker(site, "cellar", "--model", SECOND, "--weights", str(weights))
        eventually(lambda: set(site.names()) == {"attic", "cellar"}, "both join")
        yield site
    finally:
        site.close()


@pytest.mark.parametrize(
    ("query", "model", "worker"),
    [
        ("", "squeezenet1_1", "attic"),
        ("?model=squeezenet1_1", "squeezenet1_1", "attic"),
        (f"?model={SECOND}", SECOND, "cellar"),
    ],
)
def test_each_model_answers_from_its_own_worker(
    both: Site, query: str, model: str, worker: str
) -> None:
    status, body = both.send(CAT, query)
    answer = json.loads(body)
    assert (status, answer["model"], answer["worker"]) == (200, model, worker)
    assert answer["predictions"][0]["index"] in range(281, 286)
    digests = {told["name"]: told["digest"] for told in both.status()["models"]}
    assert answer["digest"] == digests[model]


def test_the_second_model_knows_the_pictures_it_was_made_for(both: Site) -> None:
    for picture, index in zip((CAT, ROCKET), KNOWN.values(), strict=True):
        answer = json.loads(both.send(picture, f"?model={SECOND}")[1])
        assert answer["predictions"][0]["index"] == index
        assert answer["predictions"][0]["probability"] > 0.9


def test_status_page_and_metrics_show_both_models(both: Site) -> None:
    told = {model["name"]: model for model in both.status()["models"]}
    assert set(told) == {"squeezenet1_1", SECOND}
    assert all(model["workers"] == 1 and len(model["digest"]) == 64 for model in told.values())
    assert told["squeezenet1_1"]["default"] and not told[SECOND]["default"]
    page, metrics = both.get("/status")[1].decode(), both.get("/metrics")[1].decode()
    for model in told:
        assert model in page
        assert f'spyglass_workers{{model="{model}",state="ready"}} 1.0' in metrics


def test_a_model_that_nobody_serves_is_not_found(both: Site) -> None:
    status, body = both.send(CAT, "?model=resnet50")
    problem = json.loads(body)
    assert (status, problem["code"]) == (404, "no-model")
    assert SECOND in problem["detail"] and "squeezenet1_1" in problem["detail"]


def test_other_weights_of_a_model_that_is_served_are_refused_in_the_event_log(
    both: Site, tmp_path: Path
) -> None:
    others = tmp_path / "others.pth"
    made_weights(SECOND, others, seed=1)
    flags = ["--model", SECOND, "--weights", str(others)]
    stranger = real_worker(both, "stranger", *flags, stderr=subprocess.PIPE)
    _, said = stranger.communicate(timeout=60)
    assert stranger.returncode == 1 and b"start it with the same --weights" in said
    assert "stranger" not in both.names()
    (line,) = [e["text"] for e in both.status()["events"] if "stranger" in e["text"]]
    assert "refused" in line and SECOND in line and "--weights" in line


# --- the official weights, from a server ------------------------------------------------------


class Hub:
    """A web server on this machine, from which the official weights of a model come instead."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        handler = partial(self._Handler, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.hub = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self._thread.start()

    class _Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *values: Any) -> None:
            self.server.hub.asked.append(self.path)  # type: ignore[attr-defined]

    def publish(self, model: str, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Put made weights there, under a name with the start of their digest, as torchvision's."""
        made = self.folder / "made.pth"
        made_weights(model, made)
        digest = hashlib.sha256(made.read_bytes()).hexdigest()
        file = made.rename(self.folder / f"{model}-{digest[:8]}.pth")
        official = torchvision.models.get_model_weights(model).DEFAULT
        url = f"http://127.0.0.1:{self.server.server_port}/{file.name}"
        monkeypatch.setattr(official, "_value_", replace(official.value, url=url))
        return file

    def close(self) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    (tmp_path / "hub").mkdir()
    hub = Hub(tmp_path / "hub")
    yield hub
    hub.close()


def test_official_weights_are_downloaded_once(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    file = hub.publish(SECOND, monkeypatch)
    first = Classifier(SECOND, "torchvision")
    first.prepare()  # it knows the cat
    again = Classifier(SECOND, "torchvision")
    assert len(hub.asked) == 1
    assert again.digest == first.digest == Classifier(SECOND, str(file)).digest


@pytest.mark.parametrize("damage", ["cut", "changed", "missing", "no server"])
def test_weights_that_do_not_arrive_whole_are_reported_in_a_sentence(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    file = hub.publish(SECOND, monkeypatch)
    data = file.read_bytes()
    if damage == "cut":
        file.write_bytes(data[: len(data) // 2])
    elif damage == "changed":
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "missing":
        file.unlink()
    else:
        hub.server.server_close()
    with pytest.raises(ModelError, match=r"could not be downloaded .*fetch http.*name the file"):
        Classifier(SECOND, "torchvision")
    file.write_bytes(data)
    if damage != "no server":
        Classifier(SECOND, "torchvision")  # nothing of the damage was kept
