"""Silent partitions between network namespaces: nothing passes, and no end of connection tells."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from testbed.fleet import Fleet
from testbed.processes import eventually

BROKER_IP, WORKER_IP = "10.99.0.1", "10.99.0.2"
#: A hardware address that nobody owns: what is sent there is lost without a word.
NOWHERE = "02:00:00:00:00:99"


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=20)


def why_not() -> str:
    """Why namespaces cannot be made here; empty if they can."""
    if shutil.which("ip") is None:
        return "iproute2 is not installed"
    name = f"spyglass-try-{os.getpid()}"
    try:
        run("ip", "netns", "add", name)
        run("ip", "netns", "del", name)
    except subprocess.CalledProcessError as error:
        return f"network namespaces need root: {error.stderr.decode().strip()}"
    return ""


class Split(Fleet):
    """The broker in one namespace, far workers in another, a switch between; clients and near
    workers reach the broker otherwise."""

    def __init__(self, folder: Path) -> None:
        # Files know no namespaces, so the client reaches the broker from its own.
        super().__init__(f"ipc://{folder}/front", f"tcp://{BROKER_IP}:5556")
        tag = os.urandom(2).hex()
        self.near, self.far, self.switch = (f"spy-{tag}-{side}" for side in "bws")
        self.inside = self.near
        self._lay_cables()

    def _lay_cables(self) -> None:
        for name in (self.near, self.far, self.switch):
            run("ip", "netns", "add", name)
        run("ip", "-n", self.switch, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", self.switch, "link", "set", "br0", "up")
        for name, end, port, ip in (
            (self.near, "b0", "pb", BROKER_IP),
            (self.far, "w0", "pw", WORKER_IP),
        ):
            run(
                *("ip", "link", "add", end, "netns", name, "type", "veth"),
                *("peer", "name", port, "netns", self.switch),
            )
            run("ip", "-n", self.switch, "link", "set", port, "master", "br0", "up")
            run("ip", "-n", name, "addr", "add", f"{ip}/24", "dev", end)
            run("ip", "-n", name, "link", "set", "lo", "up")
            run("ip", "-n", name, "link", "set", end, "up")

    def start(self, *command: str, **options: Any) -> subprocess.Popen[bytes]:
        # `ip netns exec` becomes the program, so the pid is the program's.
        inside = ["ip", "netns", "exec", self.inside]
        return self.start_command(*inside, sys.executable, *command, **options)

    def start_far(self, name: str) -> subprocess.Popen[bytes]:
        self.inside = self.far
        try:
            return self.start_worker(name, "--job-limit", "30")
        finally:
            self.inside = self.near

    def cut(self) -> None:
        run("ip", "-n", self.switch, "link", "set", "pw", "nomaster")

    def heal(self) -> None:
        run("ip", "-n", self.switch, "link", "set", "pw", "master", "br0")

    def cut_upward(self) -> None:
        self._lose(self.far, BROKER_IP, "w0")

    def cut_downward(self) -> None:
        self._lose(self.near, WORKER_IP, "b0")

    def heal_one_way(self) -> None:
        for name, ip, end in ((self.far, BROKER_IP, "w0"), (self.near, WORKER_IP, "b0")):
            with suppress(subprocess.CalledProcessError):
                run("ip", "-n", name, "neigh", "del", ip, "dev", end)

    def slow_down(self) -> None:
        run(
            *("ip", "netns", "exec", self.near, "tc", "qdisc", "replace", "dev", "b0", "root"),
            *("tbf", "rate", "8mbit", "burst", "32kb", "latency", "400ms"),
        )

    def _lose(self, name: str, ip: str, end: str) -> None:
        run(
            *("ip", "-n", name, "neigh", "replace", ip),
            *("lladdr", NOWHERE, "dev", end, "nud", "permanent"),
        )

    def close(self) -> None:
        super().close()
        for name in (self.near, self.far, self.switch):
            with suppress(subprocess.CalledProcessError):
                run("ip", "netns", "del", name)


@pytest.fixture
def split(tmp_path: Path) -> Iterator[Split]:
    if reason := why_not():
        pytest.skip(reason)
    split = Split(tmp_path)
    try:
        split.start_broker("--insecure")
        split.wait_for_broker()
        yield split
    finally:
        split.close()


def at_work(split: Split, folder: Path, seconds: float) -> Any:
    """A far worker with a picture that takes it this long, and another worker no time."""
    split.start_far("far")
    flag = folder / "begun"
    future = split.client.submit(f"once:{flag} sleep:{seconds}".encode(), timeout=40)
    eventually(flag.exists, "it is at work")
    return future


def open_files(split: Split) -> int:
    """Of the broker."""
    assert split.broker is not None
    return len(os.listdir(f"/proc/{split.broker.pid}/fd"))


def test_a_partition_of_300_ms_is_not_noticed(split: Split, tmp_path: Path) -> None:
    future = at_work(split, tmp_path, 1.0)
    split.cut()
    began = time.monotonic()
    eventually(lambda: time.monotonic() - began > 0.25, "a short silence")
    split.heal()
    answer = future.result(30)
    assert (answer.worker, answer.attempts) == ("far", 1)
    assert split.status()["departed"] == []


@pytest.mark.parametrize(
    ("cut", "heal"),
    [
        (Split.cut, Split.heal),
        (Split.cut_upward, Split.heal_one_way),
        (Split.cut_downward, Split.heal_one_way),
    ],
    ids=["both ways", "upward", "downward"],
)
def test_behind_a_partition_of_2_s_work_moves_and_after_it_the_worker_returns(
    split: Split,
    tmp_path: Path,
    cut: Callable[[Split], None],
    heal: Callable[[Split], None],
) -> None:
    future = at_work(split, tmp_path, 8.0)
    split.start_worker("near")  # may get it as a hedge; only one answer goes out
    cut(split)
    began = time.monotonic()
    eventually(lambda: "far" not in split.names(), "far is given up")
    assert time.monotonic() - began < 3  # 0.8 to 1.0 s on an idle machine, downward 1.4 s
    assert future.result(30).worker == "near"
    eventually(lambda: time.monotonic() - began > 2, "a longer silence")
    heal(split)
    eventually(lambda: "far" in split.names(), "far is back")
    assert time.monotonic() - began < 6  # 2.1 to 2.4 s on an idle machine
    counters = split.status()["counters"]
    assert (counters["accepted"], counters["answered"]) == (1, 1)


def test_a_host_that_vanished_is_given_up_and_its_successor_joins_at_once(
    split: Split, tmp_path: Path
) -> None:
    future = at_work(split, tmp_path, 20.0)
    split.cut()
    vanished = split.processes[-1]
    vanished.send_signal(signal.SIGKILL)  # its kernel's RST is lost as well
    vanished.wait()
    eventually(lambda: split.names() == [], "it is given up")
    split.heal()
    split.start_far("far")
    assert future.result(30).worker == "far"
    assert split.names() == ["far"]


@pytest.mark.slow
@pytest.mark.parametrize("hands", ["at work", "empty hands"])
@pytest.mark.parametrize("seconds", [7, 13])
def test_a_worker_returns_soon_after_a_partition_however_long(
    split: Split, tmp_path: Path, seconds: float, hands: str
) -> None:
    """TCP alone would try again only after as long again."""
    if hands == "at work":
        at_work(split, tmp_path, 30.0)
    else:
        split.start_far("far")
    before = open_files(split)
    split.cut()
    began = time.monotonic()
    eventually(lambda: split.names() == [], "far is given up")
    assert time.monotonic() - began < (3 if hands == "at work" else 8)  # 1 and 6 s
    if hands == "at work":  # else only after the heal, if that is at 7 s
        eventually(lambda: open_files(split) < before, "no connection stays half-open", 8)
    eventually(lambda: time.monotonic() - began > seconds, "a longer silence")
    split.heal()
    healed = time.monotonic()
    eventually(lambda: split.names() == ["far"], "far is back")
    assert time.monotonic() - healed < 2.5  # 1.5 s


@pytest.mark.slow
def test_a_partition_of_30_s_loses_nothing(split: Split, tmp_path: Path) -> None:
    future = at_work(split, tmp_path, 3.0)
    split.cut()
    split.start_worker("near")
    until, n = time.monotonic() + 30, 1
    assert future.result(30).worker == "near"
    while time.monotonic() < until:
        n += 1
        assert split.client.submit(b"sleep:0.1 %d" % n).result(30).worker == "near"
    split.heal()
    eventually(lambda: "far" in split.names(), "far is back")
    counters = split.status()["counters"]
    assert (counters["accepted"], counters["answered"]) == (n, n)


@pytest.mark.slow
def test_pictures_of_4_mb_arrive_over_8_mbit_a_second_and_cut_nobody_off(
    split: Split, tmp_path: Path
) -> None:
    split.start_far("far")
    split.slow_down()
    futures = [split.client.submit(os.urandom(4_000_000), timeout=60) for _ in range(2)]
    assert [future.result(60).attempts for future in futures] == [1, 1]
    assert split.status()["departed"] == []
