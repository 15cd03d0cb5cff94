"""What a process gives back once it has loaded everything, and what it must keep."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from spyglass.broker import loop, monitor
from spyglass.dispatcher.policy import Policy
from spyglass.runtime.memory import held, unwritten
from testbed.processes import ROOT, rss

#: Maps a file of 40 pages, lets `change` do something to it, settles, and prints what is in memory.
SCENE = """
import ctypes, mmap, re, sys
from pathlib import Path
from spyglass.runtime.memory import settle

def resident():
    smaps = Path("/proc/self/smaps").read_text()
    return re.search(re.escape(sys.argv[1]) + r"\\n(?:.*\\n)*?Rss: +(\\d+)", smaps)[1]

with open(sys.argv[1], "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
address = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
if sys.argv[2] == "relocate":
    mapped[5000] = 0x42
ctypes.CDLL(None).mprotect(ctypes.c_void_p(address), len(mapped), mmap.PROT_READ)
bytes(mapped)
before = resident()
settle()
print(before, resident(), mapped[4999], mapped[5000])
"""


def settled(file: Path, change: str) -> list[int]:
    """KB of the file's pages in memory before and after, and two of its bytes afterwards."""
    file.write_bytes(b"\x07" * 40 * 4096)
    command = [sys.executable, "-c", SCENE, str(file), change]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)
    return [int(number) for number in said.stdout.split()]


def test_pages_of_a_file_that_were_only_read_are_given_back_and_read_again_when_needed(
    tmp_path: Path,
) -> None:
    assert settled(tmp_path / "library", "nothing") == [160, 0, 7, 7]


def test_pages_that_were_changed_before_they_became_read_only_stay(tmp_path: Path) -> None:
    assert settled(tmp_path / "library", "relocate") == [160, 160, 7, 0x42]


def smaps(permissions: str = "r--p", inode: int = 7, anonymous: int = 0, swap: int = 0) -> str:
    return (
        f"7f0000000000-7f0000005000 {permissions} 00001000 fe:00 {inode}    /usr/lib/lib a.so\n"
        f"Size:                 20 kB\nRss:                  12 kB\n"
        f"Anonymous:         {anonymous:5} kB\nAnonHugePages:         0 kB\n"
        f"Swap:              {swap:5} kB\nSwapPss:               0 kB\nVmFlags: rd mr mw me\n"
    )


def test_a_mapping_with_a_changed_page_is_kept_even_if_the_page_is_swapped_out() -> None:
    kept = smaps(anonymous=4) + smaps(swap=4) + smaps(permissions="rw-p") + smaps(inode=0)
    assert list(unwritten(kept)) == []
    assert (
        list(unwritten(kept + smaps() + smaps(permissions="r-xp")))
        == [(0x7F0000000000, 0x5000)] * 2
    )


def test_without_counts_of_changed_pages_all_are_kept() -> None:
    lines = smaps().splitlines(keepends=True)
    assert list(unwritten("".join(line for line in lines if "Swap:" not in line))) == []


# --- the broker's alarm -----------------------------------------------------------------------


def test_the_memory_of_a_process_is_its_resident_memory() -> None:
    assert held() == pytest.approx(rss(os.getpid()), rel=0.05)


def test_a_broker_reports_once_each_time_that_it_takes_more_memory_than_it_should(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    base, now = 40_000_000, 0.0
    monkeypatch.setattr("spyglass.runtime.memory.held", lambda: base)
    port = "tcp://127.0.0.1:*"
    policy = Policy(max_waiting_bytes=1_000_000)
    watched = loop.Broker(port, port, policy, 1024, clock=lambda: now)
    watched.open()
    limit = base + policy.max_waiting_bytes + monitor.MEMORY_ROOM
    counted = []
    try:
        for taken in (limit, limit + 1, limit + 1, limit, int(0.91 * limit), limit + 1,
                      int(0.89 * limit), limit + 1):  # fmt: skip
            monkeypatch.setattr("spyglass.runtime.memory.held", lambda taken=taken: taken)
            now += monitor.CONNECTIONS_INTERVAL
            watched._turn(0)
            counted.append(len(watched.dispatcher.journal.events))
    finally:
        watched._close()
    assert counted == [0, 1, 1, 1, 1, 1, 1, 2]
    assert "MB of memory" in watched.dispatcher.journal.events[-1].text
    assert sum("MB of memory" in line for line in caplog.messages) == 2
