"""Logging that neither loses a program's last words nor keeps it from leaving."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import CAT, ROOT, Site

LEAVES_AT_ONCE = """
import logging, logs, sys
logs.configure("program")
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


def test_a_reader_that_reads_nothing_does_not_keep_a_program_from_leaving() -> None:
    stuck = start(lines=500, filling=1000)  # more than a pipe holds
    assert stuck.wait(timeout=30) == 3
    assert stuck.stderr is not None
    stuck.stderr.close()


def test_with_a_full_disk_under_the_log_everybody_is_served(site: Site) -> None:
    assert site.broker is not None and site.web is not None
    with open("/dev/full", "wb") as full:
        for process, again in (
            (site.broker, lambda: site.start_broker(stderr=full, stdout=full)),
            (site.web, lambda: site.start_web(stderr=full, stdout=full)),
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
import logging, logs, os
logs.configure("program")
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
