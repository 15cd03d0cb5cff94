"""Open files of a server, and the memory and files of a child: each limit from both sides."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from conftest import ROOT, Fleet, eventually
from forging import encoded
from PIL import Image

from chaos.fleet import below
from spyglass.client.thread_client import RequestFailed
from spyglass.protocol import Reason
from spyglass.runtime.open_files import LEAST_OPEN_FILES
from spyglass.worker.child_limits import MEMORY_PER_PICTURE, MEMORY_TO_WORK, OOM_SCORE


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
def test_strangers_who_take_all_connections_lock_nobody_out_for_long(fleet: Fleet) -> None:
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


# --- children ---------------------------------------------------------------------------------


def limited(code: str, largest_batch: int = 1, on_cpu: bool = True) -> str:
    """What a limited process prints that runs this code."""
    preamble = f"import child_limits; child_limits.limit_child({largest_batch}, {on_cpu})"
    return subprocess.run(
        [sys.executable, "-c", f"{preamble}\n{code}"],
        cwd=ROOT, capture_output=True, text=True, timeout=30,
    ).stdout.strip()  # fmt: skip


def takes(amount: int, largest_batch: int = 1) -> bool:
    """Whether a limited process may take so many bytes more than it had."""
    return limited(f"bytes({amount}); print('taken')", largest_batch) == "taken"


def test_a_child_may_take_the_memory_to_work_and_not_much_more() -> None:
    assert takes(MEMORY_TO_WORK - 10_000_000)
    assert not takes(MEMORY_TO_WORK + 10_000_000)


def test_a_child_on_a_gpu_may_take_what_its_driver_needs_and_writes_no_file_either() -> None:
    take = f"bytes({MEMORY_TO_WORK + 10_000_000}); print('taken')"
    assert limited(take, on_cpu=False) == "taken"
    write = "__import__('tempfile').TemporaryFile(buffering=0).write(b'x')"
    assert limited(f"try: {write}\nexcept OSError: print('refused')", on_cpu=False) == "refused"


def test_a_child_may_take_more_for_each_picture_of_a_larger_batch() -> None:
    two = MEMORY_TO_WORK + MEMORY_PER_PICTURE
    assert takes(two - 10_000_000, largest_batch=2)
    assert not takes(two + 10_000_000, largest_batch=2)


def test_a_childs_limits_cannot_be_raised_again() -> None:
    raising = "import resource as r; print(*r.getrlimit(r.{0}), r.RLIM_INFINITY)"
    for limit in ("RLIMIT_CORE", "RLIMIT_FSIZE"):
        assert limited(raising.format(limit)) == "0 0 -1"
    soft, hard, _ = limited(raising.format("RLIMIT_DATA")).split()
    assert soft == hard != "-1"


@pytest.mark.parametrize(("memory", "outcome"), [(30_000_000, ""), (5_000_000, "too-many-pixels")])
def test_a_picture_that_outgrows_its_childs_memory_is_refused(memory: int, outcome: str) -> None:
    flat = encoded(Image.new("P", (4000, 4000)), "PNG")  # 16 MB
    code = f"""
import picture
picture.decode({encoded(Image.new("P", (1, 1)), "PNG")!r}, 256)  # loads what decoding needs
child_limits.MEMORY_TO_WORK = {memory}
child_limits.limit_child(1)
try:
    picture.decode({flat!r}, 256)
except picture.BadImage as error:
    print(error.code)
"""
    assert limited(code) == outcome


def test_a_child_that_outgrows_its_memory_is_replaced_and_its_parent_stays(fleet: Fleet) -> None:
    worker = fleet.start_worker("attic")
    assert fleet.client.submit(b"eat:%d" % (MEMORY_TO_WORK - 20_000_000)).result(30)
    first = below(worker.pid)
    with pytest.raises(RequestFailed) as failure:
        fleet.client.submit(b"eat:%d" % (MEMORY_TO_WORK + 20_000_000)).result(30)
    assert failure.value.reason is Reason.QUARANTINED
    assert fleet.client.submit(b"hello").result(30).worker == "attic"
    assert worker.poll() is None and below(worker.pid) != first
    assert fleet.status()["departed"] == []


def test_a_child_can_write_no_file(fleet: Fleet, tmp_path: Path) -> None:
    fleet.start_worker("attic")
    written = tmp_path / "written"
    with pytest.raises(RequestFailed):
        fleet.client.submit(f"write:{written}".encode()).result(30)
    assert written.read_bytes() == b""


def test_why_a_child_failed_is_told_even_in_a_log_file(fleet: Fleet, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as file:
        fleet.start_worker("attic", stderr=file)
    with pytest.raises(RequestFailed):
        fleet.client.submit(b"raise").result(30)
    assert "a fault in the model's code" in log.read_text()


def test_children_are_the_first_to_go_when_memory_runs_out(fleet: Fleet) -> None:
    worker = fleet.start_worker("attic")
    scores = {
        pid: int(Path(f"/proc/{pid}/oom_score_adj").read_text())
        for pid in [worker.pid, *below(worker.pid)]
    }
    assert scores.pop(worker.pid) < OOM_SCORE
    assert list(scores.values()).count(OOM_SCORE) == 1, "the fork server is no child"
