"""Logging that neither loses a program's last words nor keeps it from leaving."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import ROOT

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
