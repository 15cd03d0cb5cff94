"""`make run`'s program: the whole service with the real model, from start to Ctrl-C."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from bench.http import MEMORY
from spyglass.local import supervise
from spyglass.model.classifier import Classifier
from testbed.fleet import Service, own_ports
from testbed.processes import ROOT, alive, below, eventually, free_port

CAT = ROOT / "static" / "samples" / "cat.jpg"
#: Runs what `make run` does with its standard input as the terminal that it belongs to.
WITH_A_TERMINAL = (
    "import fcntl, runpy, termios; fcntl.ioctl(0, termios.TIOCSCTTY);"
    " runpy.run_module('spyglass.local', run_name='__main__')"
)


class Whole(Service):
    """What `make run` starts, with its log in a file, once it says that it is ready."""

    def __init__(self, log: Path) -> None:
        self.log = log
        with log.open("wb") as stderr:
            settings = {"SPYGLASS_LOG_FORMAT": "json"}
            super().__init__(settings=settings, stdout=subprocess.PIPE, stderr=stderr)
        assert self.process.stdout is not None
        lines = iter(self.process.stdout.readline, b"")
        self.said = next((line.decode() for line in lines if b"Open http" in line), "")

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            return json.load(answer)

    def classify(self, picture: bytes, kind: str = "image/jpeg") -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/classify", picture, {"Content-Type": kind}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    with Whole(tmp_path_factory.mktemp("run") / "log") as service:
        yield service
        everybody = below(service.process.pid)
        assert everybody
        service.process.send_signal(signal.SIGINT)
        assert service.process.wait(60) == 0
        eventually(lambda: not any(map(alive, everybody)), "Ctrl-C leaves no process")
        assert service.process.stdout is not None
        service.process.stdout.close()


def test_it_prints_the_address_to_open_and_is_ready_then(service: Whole) -> None:
    assert service.said.strip().endswith(f"http://127.0.0.1:{service.port}/")
    assert service.get("/readyz")["workers"] == 2


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_each_format_is_answered_as_the_classifier_in_process_does(
    service: Whole, name: str
) -> None:
    file = io.BytesIO()
    Image.open(CAT).save(file, name)
    answer = service.classify(file.getvalue(), "application/octet-stream")
    classifier = Classifier()
    classifier.prepare()
    (expected,) = classifier.classify([file.getvalue()])
    assert isinstance(expected, list)
    for told, own in zip(answer["predictions"], expected, strict=True):
        assert told["label"] == own.label
        assert told["probability"] == pytest.approx(own.probability, abs=1e-4)


def test_the_command_line_names_the_same_labels(service: Whole) -> None:
    shown = subprocess.run(
        [sys.executable, "client.py", "--broker", service.env["SPYGLASS_FRONTEND"], str(CAT)],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    answer = service.classify(CAT.read_bytes())
    shown_labels = [line.split("%")[1].strip() for line in shown.stdout.splitlines()[1:]]
    assert shown_labels == [p["label"] for p in answer["predictions"]]


def test_a_12000_x_12000_picture_is_refused_before_it_is_decoded(service: Whole) -> None:
    file = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(file, "PNG")
    with pytest.raises(urllib.error.HTTPError) as refused:
        service.classify(file.getvalue(), "image/png")
    assert refused.value.code == 422
    assert json.load(refused.value)["code"] == "too-many-pixels"
    refused.value.close()


def test_a_killed_worker_comes_back(service: Whole) -> None:
    doomed = service.get("/v1/status")["workers"][0]
    os.kill(doomed["pid"], signal.SIGKILL)
    assert service.classify(CAT.read_bytes())["predictions"]

    def replaced() -> bool:
        workers = service.get("/v1/status")["workers"]
        return len(workers) == 2 and doomed["pid"] not in [w["pid"] for w in workers]

    eventually(replaced, "supervisor starts it again", 60)
    # Told as text, but not on standard error among the lines of JSON.
    assert service.process.stdout is not None
    os.set_blocking(service.process.stdout.fileno(), False)
    heard = service.process.stdout.read() or b""
    assert f"exited: {doomed['name']} (terminated by SIGKILL".encode() in heard
    assert "exited:" not in service.log.read_text()


def test_all_of_it_takes_no_more_memory_than_promised(service: Whole) -> None:
    # Others that have loaded torch, as this process has, share its pages and hide some of it.
    processes = map(psutil.Process, [service.process.pid, *below(service.process.pid)])
    assert sum(process.memory_full_info().pss for process in processes) / 2**20 <= MEMORY


def test_its_programs_write_their_logs_as_the_environment_says(service: Whole) -> None:
    told = [json.loads(line) for line in service.log.read_text().splitlines()]
    assert {line["program"] for line in told} == {"broker", "worker", "web"}
    assert any("ready with squeezenet1_1" in line["message"] for line in told)


def test_supervisor_writes_no_file_outside_its_own_folder() -> None:
    # This used to name /dev/null as pidfile, which supervisord deletes when it ends.
    config = (ROOT / "spyglass" / "local" / "supervisord.conf").read_text().split("[program:")[0]
    files = [line.split(" = ")[1] for line in config.splitlines() if "file = " in line]
    assert len(files) == 2
    assert all(file.startswith("%(ENV_SPYGLASS_STATE)s/") for file in files)


def test_a_fleet_that_is_not_ready_in_time_is_ended_with_a_sentence() -> None:
    hurried = (
        "import sys; from spyglass.local import run, supervise; sys.argv = ['spyglass'];"
        " supervise.READY_WITHIN = 1.5; sys.exit(run.main())"
    )
    env = {**os.environ, **own_ports(free_port()), "SPYGLASS_WEIGHTS": "lost.pt"}
    tried = subprocess.run(
        [sys.executable, "-c", hurried], cwd=ROOT, env=env, capture_output=True, timeout=60
    )
    assert tried.returncode == 1
    assert b"not ready within" in tried.stderr


@pytest.mark.parametrize("programs", [1, 2, 3, 4])
def test_ctrl_c_while_it_starts_ends_it_without_killing_anything(programs: int) -> None:
    with Service(stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as service:
        process = service.process
        there = "so many and the announcer are there"
        eventually(lambda: len(below(process.pid)) > programs, there)
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=60)[0]
    assert process.returncode == 0
    assert b"SIGKILL" not in told, told.decode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_before_supervisor_handles_it_leaves_no_folder(
    number: signal.Signals, tmp_path: Path
) -> None:
    with Service(settings={"TMPDIR": str(tmp_path)}, stdout=subprocess.DEVNULL) as service:
        eventually(lambda: list(tmp_path.glob("spyglass-*")), "its folder is there")
        service.process.send_signal(number)
        assert service.process.wait(60) == 0
    assert not list(tmp_path.iterdir())


def test_a_fork_that_fails_leaves_ctrl_c_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", full)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        with pytest.raises(BlockingIOError):
            supervise.Options.fork(supervise.Options.__new__(supervise.Options))
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_closing_its_terminal_ends_all_of_it() -> None:
    ours, theirs = os.openpty()
    terminal: dict[str, Any] = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    with Service("-c", WITH_A_TERMINAL, start_new_session=True, **terminal) as service:
        os.close(theirs)
        seen = b""
        while b"Spyglass is ready" not in seen:
            seen += os.read(ours, 4096)
        everybody = below(service.process.pid)
        assert len(everybody) >= 6
        os.close(ours)
        assert service.process.wait(60) == 0
        eventually(lambda: not any(map(alive, everybody)), "no process is left")


def test_a_port_in_use_is_a_sentence_with_the_variable_to_change() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        env = {**os.environ, **own_ports(taken.getsockname()[1])}
        tried = subprocess.run(
            [sys.executable, "-m", "spyglass.local"],
            cwd=ROOT,
            env=env,
            capture_output=True,
            check=False,
        )
    assert tried.returncode == 1
    assert b"SPYGLASS_PORT=" in tried.stderr
