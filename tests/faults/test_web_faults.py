"""The web among clients that hang up, drip, flood and pipeline, and under an operator's hands."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from spyglass.protocol import Op
from spyglass.web.api.classify import MAX_IN_FLIGHT
from testbed.fleet import CAT, Programs, Site
from testbed.processes import PATIENCE, eventually, free_port


def post(picture: bytes, *headers: bytes) -> bytes:
    """A request as it goes over the wire."""
    head = [
        b"POST /v1/classify HTTP/1.1",
        b"Host: localhost",
        b"Content-Type: image/jpeg",
        *headers,
    ]
    return b"\r\n".join([*head, b"Content-Length: %d" % len(picture), b"", picture])


def photo(n: int) -> bytes:
    """A picture like no other."""
    return CAT + b" %d" % n


# --- clients ----------------------------------------------------------------------------------


def test_the_picture_of_a_client_that_hangs_up_is_cancelled(site: Site) -> None:
    with site.connect() as client:
        client.sendall(post(CAT))
        eventually(lambda: site.waiting() == 1, "it waits for a worker")
    eventually(lambda: site.waiting() == 0, "it is cancelled")
    counters = site.status()["counters"]
    assert (counters["cancelled"], counters["failed"]) == (1, 0)


def test_an_aborted_upload_becomes_no_request(site: Site) -> None:
    with site.connect() as client:
        client.sendall(post(CAT)[:-1000])
    site.start_worker("attic")
    assert site.send(CAT)[0] == 200
    # The broker keeps a snapshot for a moment: this one may be from before.
    assert eventually(lambda: site.status()["counters"]["accepted"], "it is counted") == 1


def test_a_killed_webs_pictures_leave_the_queue(site: Site) -> None:
    with ThreadPoolExecutor(50) as threads:
        for n in range(50):
            threads.submit(site.send, photo(n))
        eventually(lambda: site.waiting() == 50, "all wait for a worker")
        assert site.web is not None
        site.web.kill()
        killed = time.monotonic()
        eventually(lambda: site.waiting() == 0, "all are cancelled")
        assert time.monotonic() - killed < 1  # 50 ms on an idle machine
    assert site.status()["counters"]["cancelled"] == 50


def test_twenty_slow_uploads_keep_nobody_else_waiting(site: Site) -> None:
    site.start_worker("attic")
    with ExitStack() as drips:
        slow = [drips.enter_context(site.connect()) for _ in range(20)]
        for connection in slow:
            connection.sendall(post(CAT)[:200])
        for n in range(10):
            for connection in slow:
                connection.sendall(b"x")
            assert site.send(photo(n))[0] == 200
        assert site.get("/livez")[0] == 200


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: b\r\n" * 10_000 + b"\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"b" * 300_000 + b"\r\n\r\n",
    ],
    ids=["10,000 headers", "100 KB address", "300 KB header"],
)
def test_an_immense_head_is_refused_and_others_are_served(site: Site, request_head: bytes) -> None:
    with site.connect() as client:
        answer = b""
        with suppress(ConnectionError):
            client.sendall(request_head)
            answer = client.recv(4096)
    assert answer[:12] in (b"", b"HTTP/1.1 400", b"HTTP/1.0 400", b"HTTP/1.1 431", b"HTTP/1.0 431")
    assert site.get("/livez")[0] == 200


def test_odd_requests_get_a_plain_refusal_and_never_a_file_or_a_fault(site: Site) -> None:
    asked = {
        b"TRACE / HTTP/1.1": 405,
        b"OPTIONS * HTTP/1.1": 404,
        b"CONNECT evil.example:80 HTTP/1.1": 400,
        b"PRI * HTTP/2.0": 400,
        b"GET //evil.example/status HTTP/1.1": 404,
        b"GET /static/..%2f..%2fweb.py HTTP/1.1": 404,
        b"GET /status%00 HTTP/1.1": 404,
        b"GET /%ff%fe HTTP/1.1": 404,
        b"GET /livez HTTP/1.1\r\nUpgrade: h2c": 200,
        b"POST /v1/classify HTTP/1.1\r\nUpgrade: x\r\nContent-Length: 5": 415,
    }
    for request, status in asked.items():
        with site.connect() as client:
            client.sendall(
                request + b"\r\nHost: localhost\r\nConnection: close, Upgrade\r\n\r\nhello"
            )
            answer = client.recv(4096)
        assert answer.startswith(b"HTTP/1.1 %d " % status), request
        assert b"nosniff" in answer, request


def test_ten_thousand_requests_on_one_connection_are_answered_in_order(site: Site) -> None:
    asked = [(404, b"/v1/nothing") if n % 7 == 0 else (405, b"/v1/classify") for n in range(10_000)]
    heads = [b"GET %b HTTP/1.1\r\nHost: localhost\r\n" % path for _, path in asked]
    heard = b""
    with site.connect() as client, ThreadPoolExecutor(1) as sender:
        client.settimeout(60)
        sender.submit(client.sendall, b"\r\n".join(heads) + b"Connection: close\r\n\r\n")
        with suppress(ConnectionError):
            while data := client.recv(65536):
                heard += data
    told = [int(answer[:3]) for answer in heard.split(b"HTTP/1.1 ")[1:]]
    assert told == [status for status, _ in asked]


@pytest.mark.slow
def test_of_a_thousand_clients_at_once_some_are_served_and_the_rest_get_busy(site: Site) -> None:
    site.start_worker("attic")
    site.start_worker("cellar")

    async def ask(n: int) -> tuple[int, float]:
        began = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(post(photo(n), b"Connection: close"))
        answer = await reader.read()
        writer.close()
        return int(answer.split()[1]), time.monotonic() - began

    async def all_at_once() -> list[tuple[int, float]]:
        return await asyncio.gather(*(ask(n) for n in range(1000)))

    answers = asyncio.run(all_at_once())
    statuses = Counter(status for status, _ in answers)
    assert set(statuses) <= {200, 503} and statuses[200] >= MAX_IN_FLIGHT, statuses
    assert site.send(CAT)[0] == 200


# --- operators --------------------------------------------------------------------------------


def test_with_all_workers_drained_the_web_lives_but_is_not_ready(site: Site) -> None:
    site.start_worker("attic")
    eventually(lambda: site.get("/readyz")[0] == 200, "it is ready")
    worker_id = site.worker("attic")["id"]
    for _ in range(2):  # twice is the same as once
        site.client.control(Op.DRAIN, worker_id)
    eventually(lambda: site.names() == [], "it has left")
    assert site.get("/livez")[0] == 200
    assert site.get("/readyz")[0] == 503
    status, body = site.send(CAT, "?timeout_ms=300")
    assert (status, json.loads(body)["code"]) == (503, "no-workers")


def test_removing_a_busy_worker_costs_its_clients_nothing(site: Site) -> None:
    site.start_worker("attic")
    futures = [site.client.submit(b"sleep:0.2 %d" % n) for n in range(4)]
    eventually(lambda: site.worker("attic")["in_flight"], "it is at work")
    site.start_worker("cellar")
    worker_id = site.worker("attic")["id"]
    assert site.client.control(Op.REMOVE, worker_id)[0]
    assert not site.client.control(Op.REMOVE, worker_id)[0], "it is gone already"
    assert all(future.result(30).predictions for future in futures)


def test_a_stopped_web_answers_the_request_in_progress_and_exits_with_0(site: Site) -> None:
    with ThreadPoolExecutor() as threads:
        answer = threads.submit(site.send, CAT)
        eventually(lambda: site.waiting() == 1, "it waits for a worker")
        assert site.web is not None
        site.web.terminate()
        site.start_worker("late")
        assert answer.result(30)[0] == 200
    assert site.web.wait(30) == 0


@pytest.mark.slow
def test_a_rolling_restart_under_load_loses_nothing(site: Site) -> None:
    workers = {name: site.start_worker(name) for name in ("attic", "cellar")}
    seen: list[tuple[float, int]] = []
    stop = False

    def load(lane: int) -> None:
        n = 0
        while not stop:
            n += 1
            sent = time.monotonic()
            seen.append((sent, site.send(photo(100_000 * lane + n))[0]))

    def restart(process: subprocess.Popen[Any], again: Any) -> None:
        process.terminate()
        assert process.wait(30) == 0
        again()

    with ThreadPoolExecutor(4) as threads:
        for lane in range(4):
            threads.submit(load, lane)
        try:
            eventually(lambda: len(seen) > 20, "some are answered")
            assert site.broker is not None and site.web is not None
            restart(site.broker, site.start_broker)
            eventually(lambda: len(site.names()) == 2, "both workers are back")
            for name, worker in workers.items():
                restart(worker, lambda name=name: site.start_worker(name))
            assert {status for _, status in seen} == {200}
            away = time.monotonic()
            restart(site.web, site.start_web)
            back = time.monotonic()
            eventually(lambda: seen[-1][0] > back + 0.5, "some more are answered")
        finally:
            stop = True
    # While the web is away its connections are refused; nothing else may fail.
    failed = [sent for sent, status in seen if status != 200]
    assert all(away - 0.5 <= sent <= back for sent in failed)
    counters = site.status()["counters"]
    assert counters["failed"] == 0


def test_a_web_that_is_stopped_while_it_starts_stops() -> None:
    # As its port listens its own handler stands; uvicorn's comes some milliseconds later.
    for _ in range(5):
        with Programs() as programs:
            web = programs.run_web([], free_port())
            eventually(partial(handles, web.pid, signal.SIGTERM), "it has a handler")
            web.send_signal(signal.SIGTERM)
            assert web.wait(PATIENCE) == 0


def handles(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal (proc(5), SigCgt)."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = re.search(r"SigCgt:\s*(\w+)", status)
    assert caught is not None
    return bool(int(caught[1], 16) >> (number - 1) & 1)
