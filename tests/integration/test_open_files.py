"""The limit of open files of broker and web, from both sides."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
from contextlib import ExitStack
from functools import partial

import pytest

from spyglass.runtime.open_files import LEAST_OPEN_FILES
from testbed.fleet import Fleet
from testbed.processes import ROOT, eventually


def allow(files: int, hard: int | None = None) -> None:
    """In a process to be: as `ulimit -n` does."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard or files))


@pytest.mark.parametrize("program", ["broker.py", "web.py"])
def test_too_few_open_files_are_refused_with_the_command_to_run(program: str) -> None:
    ended = subprocess.run(
        [sys.executable, program],
        cwd=ROOT, capture_output=True, text=True, timeout=30,
        preexec_fn=partial(allow, LEAST_OPEN_FILES - 1),
    )  # fmt: skip
    assert ended.returncode == 1
    assert "ulimit -n" in ended.stderr and "Traceback" not in ended.stderr


def test_a_low_limit_that_may_be_raised_is_raised() -> None:
    said = subprocess.run(
        [sys.executable, "-c",
         "from spyglass.runtime.open_files import *; print(raise_open_files())"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=30,
        preexec_fn=partial(allow, 64, LEAST_OPEN_FILES),
    ).stdout  # fmt: skip
    assert int(said) == LEAST_OPEN_FILES


@pytest.mark.slow  # 820 connections must be made within the 2 s of a handshake
def test_connections_without_a_message_keep_nobody_out_for_long(fleet: Fleet) -> None:
    assert fleet.broker is not None
    fleet.broker.kill()
    fleet.broker.wait()
    fleet.start_broker(preexec_fn=partial(allow, LEAST_OPEN_FILES))
    fleet.start_worker("attic")
    host, _, port = fleet.backend.removeprefix("tcp://").rpartition(":")
    with ExitStack() as strangers:
        for n in range(LEAST_OPEN_FILES + 100):
            strangers.enter_context(socket.create_connection((host, int(port)), timeout=10))
            if n % 50 == 0:  # meanwhile the kernel's queue of 100 empties; else the next waits 1 s
                assert fleet.client.submit(b"known %d" % n).result(30).worker == "attic"
        fleet.start_worker("late")  # once the handshake's time is over
    assert "attic" in fleet.names()
    events = [event["text"] for event in fleet.status()["events"]]
    assert any("connections are open" in text for text in events)
    assert fleet.status()["departed"] == []
    eventually(lambda: fleet.client.submit(b"at last").result(30), "all is well")
