"""Logging that neither loses a program's last lines nor keeps it from ending."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from spyglass.broker import cli
from spyglass.runtime import logs
from testbed.fleet import CAT, Site
from testbed.processes import ROOT, eventually
from testbed.stand_in import MARK

LEAVES_AT_ONCE = """
import argparse, logging, sys
from spyglass.runtime import logs
logs.configure("program", argparse.Namespace(log_format="text", log_level="info"))
for n in range({lines}):
    logging.getLogger("x").error("line %d %s", n, "." * {filling})
sys.exit(3)
"""


def start(lines: int, filling: int = 0) -> subprocess.Popen[bytes]:
    script = LEAVES_AT_ONCE.format(lines=lines, filling=filling)
    return subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.PIPE)


@pytest.mark.parametrize("attempt", range(10))
def test_the_last_line_before_leaving_is_written(attempt: int) -> None:
    # This used to be lost now and then, and with it why a worker refused to start.
    _, said = start(lines=200).communicate(timeout=30)
    assert b"line 199" in said


def test_a_line_is_written_where_python_asks_for_the_lock_as_well() -> None:
    # Python 3.13 and later use it as a context manager; with None there, nothing was ever written.
    writer = logs._Writer()
    with writer.lock:  # type: ignore[union-attr]
        writer.acquire()
    writer.release()


def test_a_reader_that_reads_nothing_does_not_keep_a_program_from_leaving() -> None:
    stuck = start(lines=500, filling=1000)  # more than a pipe holds
    assert stuck.wait(timeout=30) == 3
    assert stuck.stderr is not None
    stuck.stderr.close()


def test_with_a_full_disk_under_the_log_everybody_is_served(site: Site) -> None:
    assert site.broker is not None and site.web is not None
    with open("/dev/full", "wb") as full:
        for process, again in (
            (site.broker, partial(site.start_broker, stderr=full, stdout=full)),
            (site.web, partial(site.start_web, stderr=full, stdout=full)),
        ):
            process.kill()
            process.wait()
            again()
        worker = site.start_worker("attic", stderr=full, stdout=full)
    for n in range(20):
        assert site.send(CAT + b"%d" % n)[0] == 200
    for process in (worker, site.web, site.broker):
        process.terminate()
        assert process.wait(30) == 0


OUT_OF_ROOM_FOR_A_WHILE = """
import argparse, logging, os
from spyglass.runtime import logs
logs.configure("program", argparse.Namespace(log_format="text", log_level="info"))
root = logging.getLogger()
kept = os.dup(2)
os.dup2(os.open("/dev/full", os.O_WRONLY), 2)
root.error("nobody reads this")
root.handlers[0].queue.join()
os.dup2(kept, 2)
root.error("there is room again")
"""


def test_a_log_without_room_goes_on_once_there_is_some() -> None:
    said = subprocess.run(
        [sys.executable, "-c", OUT_OF_ROOM_FOR_A_WHILE],
        cwd=ROOT, capture_output=True, timeout=30, check=True,
    ).stderr  # fmt: skip
    assert b"there is room again" in said and b"nobody reads" not in said and b"Error" not in said


# --- what is in a line ------------------------------------------------------------------------

NASTY = "mallory\n00:00:00 broker: all is well\x1b[2J\u202e"


def logged_by(script: str, *flags: str) -> list[str]:
    """The lines of a program that configures its logs by these flags."""
    start = (
        "import logging\nfrom spyglass.runtime import logs, settings\n"
        "p = settings.Parser('program', '', ''); logs.add_settings(p)\n"
        f"logs.configure('worker', p.parse_args({list(flags)!r}), 'attic')\n"
        "log = logging.getLogger('x')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", start + script], cwd=ROOT, capture_output=True, timeout=30
    )
    return done.stderr.decode().splitlines()


def test_a_line_for_people_has_time_name_message_and_request() -> None:
    script = "log.info('took %s', 'it', extra=logs.about(bytes(16), child=7))"
    (line,) = logged_by(script)
    assert re.fullmatch(r"\d\d:\d\d:\d\d attic: took it request_id=0{32}", line)


def test_a_line_for_machines_is_one_object() -> None:
    script = "log.warning('took %s', 'it', extra=logs.about(bytes(16), child=7))"
    (line,) = logged_by(script, "--log-format", "json")
    fields = json.loads(line)
    at = datetime.fromisoformat(fields.pop("time"))
    assert abs((datetime.now(UTC) - at).total_seconds()) < 60
    assert list(fields.items()) == [
        ("level", "warning"),
        ("program", "worker"),
        ("worker", "attic"),
        ("message", "took it"),
        ("request_id", "00" * 16),
        ("child", 7),
    ]


@pytest.mark.parametrize("format", ["text", "json"])
def test_nobody_outside_can_write_a_line_of_the_log(format: str) -> None:
    script = f"nasty = {NASTY!r}\nlog.info('%s joined', nasty, extra=logs.about(nasty, host=nasty))"
    (line,) = logged_by(script, "--log-format", format)
    assert r"mallory\n00:00:00 broker" in line
    assert line.isprintable() and line.isascii()


def test_no_line_of_a_traceback_looks_like_one_of_the_log() -> None:
    script = (
        f"try: raise ValueError({NASTY!r})\n"
        "except ValueError: log.exception('it failed')\n"
        "log.info('it goes on')\n"
    )
    first, *traceback, last = logged_by(script)
    assert first.endswith("attic: it failed") and last.endswith("attic: it goes on")
    assert len(traceback) >= 4
    assert all(line.startswith("    ") and line.isprintable() for line in traceback)


@pytest.mark.parametrize(
    "script",
    [
        "raise ValueError('nobody foresaw it')",
        "import threading\ndef fail(): raise ValueError('nobody foresaw it')\n"
        "t = threading.Thread(target=fail); t.start(); t.join()",
        "import warnings\nwarnings.warn('nobody foresaw it')",
        "import sys\nprint('nobody foresaw it:\\nchoose another', file=sys.stderr)",
    ],
)
def test_an_unexpected_exception_is_an_object_on_a_line_too(script: str) -> None:
    (line,) = logged_by(script, "--log-format", "json")
    assert "nobody foresaw it" in json.loads(line)["message"]


@pytest.mark.parametrize(
    ("level", "written"),
    [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)],
)
def test_lines_beneath_the_level_are_not_written(level: str, written: int) -> None:
    script = "for level in (10, 20, 30, 40): log.log(level, 'a line')"
    assert len(logged_by(script, "--log-level", level)) == written


@pytest.mark.parametrize("flags", [["--log-format", "xml"], ["--log-level", "loud"]])
def test_an_unknown_format_or_level_is_a_usage_error(flags: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(flags)
    assert left.value.code == 2


# --- the way of a request ---------------------------------------------------------------------


class LoggedSite(Site):
    """Web, broker and workers that write their logs, as JSON, to one file."""

    def __init__(self, file: Path, level: str) -> None:
        self._log = file.open("wb")
        self.file = file
        env = {**os.environ, "SPYGLASS_LOG_FORMAT": "json", "SPYGLASS_LOG_LEVEL": level}
        super().__init__(env=env, stderr=self._log)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.file.read_text().splitlines()]

    def way(self, request_id: str) -> list[tuple[str, str]]:
        """Who said what of a request."""
        found = [fields for fields in self.lines() if fields.get("request_id") == request_id]
        whose = [
            fields["worker" if fields["program"] == "worker" else "program"] for fields in found
        ]
        return [(who, fields["message"]) for who, fields in zip(whose, found, strict=True)]

    def close(self) -> None:
        super().close()
        self._log.close()


@pytest.fixture(params=["debug"])
def logged(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LoggedSite]:
    site = LoggedSite(tmp_path / "log", request.param)
    try:
        site.start_broker()
        site.start_web()
        yield site
    finally:
        site.close()


def has_steps(way: list[tuple[str, str]], by: str, *steps: str) -> bool:
    """Whether these words were said by this one, in this order."""
    left = (said for who, said in way if who == by)
    return all(any(words in said for said in left) for words in steps)


def test_one_grep_shows_the_whole_way_of_a_request(logged: LoggedSite, tmp_path: Path) -> None:
    logged.start_worker("attic")
    logged.start_worker("cellar")
    crashes_once = f"once:{tmp_path / 'crashed'} crash".encode()
    status, body = logged.send(CAT + MARK + crashes_once)
    assert status == 200
    request_id = json.loads(body)["request_id"]
    rescuer = json.loads(body)["worker"]
    unlucky = "attic" if rescuer == "cellar" else "cellar"

    steps = {
        "web": ["sent to the broker", "POST /v1/classify: 200 in"],
        "broker": [
            "arrived",
            f"sent to {unlucky}, attempt 1",
            f"returned by {unlucky}: crash",
            f"{unlucky}: crash on a request; moved",
            f"sent to {rescuer}, attempt 2",
            f"answered by {rescuer}",
        ],
        unlucky: ["accepted", "given to child", "crash: the child process died on it"],
        rescuer: ["accepted", "given to child", "computed it in"],
    }

    def is_logged() -> bool:
        way = logged.way(request_id)
        return all(has_steps(way, who, *words) for who, words in steps.items())

    eventually(is_logged, "the logs tell its whole way")


@pytest.mark.parametrize("logged", ["info"], indirect=True)
def test_by_default_a_picture_leaves_no_line_unless_something_failed(
    logged: LoggedSite, tmp_path: Path
) -> None:
    logged.start_worker("attic", "--job-limit", "60")
    status, body = logged.send(CAT)
    assert status == 200
    marked = tmp_path / "begun"
    refused = logged.send(b"not a picture")
    late = logged.send(CAT + MARK + f"mark:{marked}".encode(), "?timeout_ms=100")
    assert (refused[0], late[0]) == (415, 504)
    lost = json.loads(late[1])["request_id"]
    eventually(lambda: has_steps(logged.way(lost), "broker", "failed: deadline"), "broker says")
    eventually(lambda: has_steps(logged.way(lost), "web", "504 in"), "the web says")
    assert logged.way(json.loads(body)["request_id"]) == []
    assert logged.way(json.loads(refused[1])["request_id"]) == []


def test_the_id_a_caller_gave_leads_to_ours(logged: LoggedSite) -> None:
    logged.start_worker("attic")
    for callers in ("order-7", "x y"):
        ask = urllib.request.Request(f"{logged.url}/v1/classify", CAT)
        ask.add_header("X-Request-Id", callers)
        with urllib.request.urlopen(ask, timeout=60) as answer:
            assert answer.headers["X-Request-Id"] != callers

    def pictures() -> list[dict[str, Any]]:
        return [
            fields for fields in logged.lines() if fields["message"].startswith("POST /v1/classify")
        ]

    first, second = eventually(lambda: len(found := pictures()) == 2 and found, "two lines")
    assert first["callers_id"] == "order-7"
    assert "callers_id" not in second  # no name, so it may be anything


@pytest.mark.parametrize("format", ["text", "json"])
def test_why_a_program_does_not_start_is_logged_in_the_format_asked_for(format: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        flags = ["--port", str(taken.getsockname()[1]), "--log-format", format]
        tried = subprocess.run(
            [sys.executable, "web.py", *flags], cwd=ROOT, capture_output=True, check=False
        )
    assert tried.returncode == 1
    said = tried.stderr.decode()
    if format == "json":
        (said,) = [json.loads(line)["message"] for line in said.splitlines()]
    assert "cannot listen" in said and "Choose another port with --port" in said


def test_every_line_of_every_program_is_json_also_when_a_page_fails(logged: LoggedSite) -> None:
    with logged.connect() as connection:  # what uvicorn says of it, if anything
        connection.sendall(b"GET / HTTP/9.9\r\nbroken\r\n\r\n")
        connection.recv(1000)
    assert logged.get("/no/such/page")[0] == 404
    logged.start_worker("attic")
    for process in reversed(logged.processes):
        process.terminate()
        assert process.wait(30) == 0
    assert {fields["program"] for fields in logged.lines()} == {"web", "broker", "worker"}
