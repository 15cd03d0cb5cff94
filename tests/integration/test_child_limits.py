"""What a worker's child may take of memory and files: each limit from both sides."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from forging import encoded
from PIL import Image

from spyglass.client.thread_client import RequestFailed
from spyglass.protocol import Reason
from spyglass.worker.child_limits import MEMORY_PER_PICTURE, MEMORY_TO_WORK, OOM_SCORE
from testbed.fleet import Fleet
from testbed.processes import ROOT, below


def limited(code: str, largest_batch: int = 1, on_cpu: bool = True) -> str:
    """What a limited process prints that runs this code."""
    preamble = (
        "from spyglass.worker import child_limits;"
        f" child_limits.limit_child({largest_batch}, {on_cpu})"
    )
    return subprocess.run(
        [sys.executable, "-c", f"{preamble}\n{code}"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=30,
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
from spyglass.model import decode as picture
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


def test_why_a_child_failed_is_reported_even_in_a_log_file(fleet: Fleet, tmp_path: Path) -> None:
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
