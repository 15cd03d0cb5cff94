"""The messages of SPY1 by which a worker joins, stays and leaves. They name no request."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from spyglass.protocol import header as read
from spyglass.protocol.header import Header, ProtocolError
from spyglass.protocol.messages import MAX_CREDIT, Body

#: Sent in READY; the broker refuses a worker that speaks another revision.
PROTOCOL_REVISION = 1
#: Single children that a heartbeat lists; a machine with more shows it by `processes`.
MAX_CHILDREN_LISTED = 32
#: Characters of a machine's name: what Linux and DNS allow.
MAX_HOST = 255
#: Milliseconds, the longest interval of heartbeats a broker may ask for: a worker that
#: sends them less often than once a minute is not there.
MAX_INTERVAL_MS = 60_000


@dataclass(frozen=True, slots=True)
class Ready:
    """R: a worker joins, or joins again; it holds nothing and takes `credit` requests."""

    TYPE: ClassVar[bytes] = b"R"
    model: str
    digest: str
    credit: int
    host: str
    pid: int
    name: str
    processes: int = 1
    revision: int = PROTOCOL_REVISION
    id: bytes = field(default=b"", init=False)

    def header(self) -> Header:
        return {
            "revision": self.revision,
            "model": self.model,
            "digest": self.digest,
            "credit": self.credit,
            "host": read.sentence(self.host, MAX_HOST),
            "pid": self.pid,
            "name": self.name,
            "processes": self.processes,
        }

    @classmethod
    def read(cls, id: bytes, header: Header, body: Body) -> Ready:
        return cls(
            model=read.name(header, "model"),
            digest=read.digest(header, "digest"),
            credit=read.whole(header, "credit", 1, MAX_CREDIT),
            host=read.text(header, "host", MAX_HOST, None),
            pid=read.whole(header, "pid", 0, 2**31),
            name=read.name(header, "name"),
            processes=read.whole(header, "processes", 1, MAX_CREDIT),
            revision=read.whole(header, "revision", 1, 1000),
        )


@dataclass(frozen=True, slots=True)
class ChildState:
    """What one child of a worker is doing: `idle`, `busy` or `starting`, for how long."""

    pid: int
    state: str
    for_ms: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """H: I live. From a worker also what its children do; from the broker how many milliseconds
    later a worker that holds nothing sends its next heartbeat. It never gives credit."""

    TYPE: ClassVar[bytes] = b"H"
    children: tuple[ChildState, ...] = ()
    interval_ms: int = 0  # 0 says nothing about it
    id: bytes = field(default=b"", init=False)

    def header(self) -> Header:
        listed = self.children[:MAX_CHILDREN_LISTED]
        header: Header = {}
        if listed:
            header["children"] = [[c.pid, c.state, c.for_ms] for c in listed]
        if self.interval_ms:
            header["interval_ms"] = self.interval_ms
        return header

    @classmethod
    def read(cls, id: bytes, header: Header, body: Body) -> Heartbeat:
        rows = header.get("children", [])
        if type(rows) is not list or len(rows) > MAX_CHILDREN_LISTED:
            raise ProtocolError(f"children must be a list of at most {MAX_CHILDREN_LISTED}")
        interval_ms = read.whole(header, "interval_ms", 0, MAX_INTERVAL_MS, 0)
        return cls(tuple(map(cls._child, rows)), interval_ms)

    @staticmethod
    def _child(row: object) -> ChildState:
        if type(row) is not list or len(row) != 3:
            raise ProtocolError("a child is listed as [pid, state, milliseconds]")
        fields = dict(zip(("pid", "state", "for_ms"), row, strict=True))
        return ChildState(
            read.whole(fields, "pid", 0, 2**31),
            read.text(fields, "state", 16),
            read.whole(fields, "for_ms", 0, 2**40),
        )


@dataclass(frozen=True, slots=True)
class Bye:
    """B: goodbye, or "start over".

    From a worker: it takes no more work; `owed` replies still follow (0: none).
    From the broker: `again` true, I do not know you, say READY; false, you are removed: leave.
    """

    TYPE: ClassVar[bytes] = b"B"
    reason: str = ""
    owed: int = 0
    again: bool = False
    id: bytes = field(default=b"", init=False)

    def header(self) -> Header:
        return {"reason": read.sentence(self.reason), "owed": self.owed, "again": self.again}

    @classmethod
    def read(cls, id: bytes, header: Header, body: Body) -> Bye:
        owed = read.whole(header, "owed", 0, MAX_CREDIT, 0)
        return cls(read.text(header, "reason"), owed, read.flag(header, "again"))
