"""The messages of SPY1: what each one says, how its header is written, and what is legal in it.

Those by which a worker joins, stays and leaves are in worker_messages.py, frames and checksums in
codec.py; PROTOCOL.md is the contract in prose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, TypeAlias

from isal.isal_zlib import crc32

from spyglass.protocol import header as read
from spyglass.protocol.header import Header, ProtocolError

#: Bytes of one part. libzmq counts only whole frames as a sign of life, so a picture in one
#: 4 MB frame gets a slow link cut in the middle of it; 64 KiB passes in 66 ms at 8 Mbit/s.
PART_BYTES = 64 * 1024
#: Parts of a message of a worker: 1 MiB, ten times the answer with all of ImageNet's labels. What
#: more comes of a single one is cut off while it comes.
MAX_ANSWER_PARTS = 16
#: Seconds, the longest limit a caller may ask for. An hour serves any overnight batch.
MAX_TIMEOUT = 3600.0
#: Predictions a caller may ask for: all of ImageNet's labels.
MAX_TOP_K = 1000
#: Characters of what a query names: a worker, an address, a picture.
MAX_TARGET = 255
#: Credit a worker may announce: 64 children with sixteen requests each.
MAX_CREDIT = 1024

#: bytes, memoryview or zmq.Frame: anything with a length and the buffer protocol.
Part: TypeAlias = Any


class Reason(Enum):
    """Why a request was not (or not yet) answered with predictions; the text in a NACK."""

    CHECKSUM = "checksum"  # the picture was damaged on the way
    BUSY = "busy"  # the queue is full
    BAD_IMAGE = "bad-image"  # the picture cannot be decoded
    TOO_MANY_PIXELS = "too-many-pixels"  # larger than the pixel or aspect limit
    UNSUPPORTED = "unsupported"  # not one of the accepted formats
    CRASH = "crash"  # the worker's child died on it
    HUNG = "hung"  # the worker's child was killed at the job limit
    CANCELLED = "cancelled"  # nobody waits for it any more
    DRAINING = "draining"  # the peer is leaving and takes nothing new
    DEADLINE = "deadline"  # its time ran out
    QUARANTINED = "quarantined"  # this picture killed two workers before
    NO_MODEL = "no-model"  # no worker ever offered this model
    NO_WORKERS = "no-workers"  # its time ran out while no worker was connected
    NO_BROKER = "no-broker"  # its time ran out while no broker could be reached
    WORKER_LOST = "worker-lost"  # every allowed attempt lost its worker
    WRONG_MODEL = "wrong-model"  # READY refused: digest or protocol differs from the pool's


#: Failures that only the sender can fix, or that are many when there is too much to do.
USUAL_FAILURES = frozenset(
    (
        Reason.BAD_IMAGE,
        Reason.BUSY,
        Reason.CANCELLED,
        Reason.NO_MODEL,
        Reason.QUARANTINED,
        Reason.TOO_MANY_PIXELS,
        Reason.UNSUPPORTED,
    )
)


class Op(Enum):
    """What a client may ask of the broker with Q."""

    STATUS = "status"
    DRAIN = "drain"
    REMOVE = "remove"
    ADD = "add"
    CLEAR = "clear"
    JOIN = "join"


def crc_of(parts: Sequence[Part], crc: int = 0) -> int:
    """CRC-32 over the parts as if they were one string of bytes."""
    for part in parts:
        crc = crc32(part, crc)
    return crc


@dataclass(frozen=True, slots=True)
class Body:
    """The parts of a message, untouched, and the checksum their sender gave them."""

    parts: tuple[Part, ...] = ()
    crc: int = 0

    @classmethod
    def of(cls, data: bytes) -> Body:
        """Cut `data` into parts of 64 KiB and seal them."""
        view = memoryview(data)
        parts = tuple(view[at : at + PART_BYTES] for at in range(0, len(view), PART_BYTES))
        return cls(parts, crc32(data))

    @property
    def size(self) -> int:
        """Bytes in all parts."""
        return sum(map(len, self.parts))

    def intact(self) -> bool:
        """Whether the parts are still what their sender sealed. Reads every byte."""
        return crc_of(self.parts) == self.crc

    def join(self) -> bytes:
        """All parts as one string of bytes."""
        return b"".join(self.parts)


NO_BODY = Body()


@dataclass(frozen=True, slots=True)
class Request:
    """D going down: a picture to recognise within `budget_ms` milliseconds from now."""

    TYPE: ClassVar[bytes] = b"D"
    id: bytes
    model: str  # "" = the broker's default
    top_k: int
    budget_ms: int  # what is left, never a time of day: clocks differ, durations do not
    sha256: str  # of the picture, in hexadecimal
    body: Body
    attempt: int = 1  # counted by the broker
    alone: bool = False  # compute it in a batch of its own: another of it lost its worker

    def header(self) -> Header:
        return {
            "model": self.model,
            "top_k": self.top_k,
            "budget_ms": self.budget_ms,
            "sha256": self.sha256,
            "attempt": self.attempt,
            "alone": self.alone,
        }

    def forwarded(self, budget_ms: int, attempt: int, alone: bool) -> Request:
        """The same on its way to a worker."""
        picture = self.id, self.model, self.top_k, budget_ms, self.sha256, self.body
        return Request(*picture, attempt, alone)  # `replace` takes thrice the time

    def emptied(self) -> Request:
        """The same without its picture."""
        asked = self.id, self.model, self.top_k, self.budget_ms, self.sha256
        return Request(*asked, NO_BODY, self.attempt, self.alone)

    @classmethod
    def read(cls, id: bytes, header: Header, body: Body) -> Request:
        if not body.parts:
            raise ProtocolError("a request carries a picture")
        return cls(
            id=id,
            model=read.name(header, "model", optional=True),
            top_k=read.whole(header, "top_k", 1, MAX_TOP_K),
            budget_ms=read.whole(header, "budget_ms", 0, int(MAX_TIMEOUT * 1000)),
            sha256=read.digest(header, "sha256"),
            body=body,
            attempt=read.whole(header, "attempt", 1, 1000, 1),
            alone=read.flag(header, "alone"),
        )


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds a request spent where: `worker` holds `decode` and `infer`, and the broker's
    two are filled in there."""

    decode: float  # in the child, from the picture's bytes to the model's input
    infer: float  # in the child, from that to the predictions
    worker: float = 0.0  # from its arrival at the worker to the answer
    queue: float = 0.0  # from its arrival at the broker to its last sending to a worker
    broker: float = 0.0  # from its arrival at the broker to the answer


@dataclass(frozen=True, slots=True)
class Result:
    """D going up: predictions (JSON in the body). The broker adds who, how often, how long."""

    TYPE: ClassVar[bytes] = b"D"
    id: bytes
    times: Times
    body: Body
    model: str = ""
    digest: str = ""
    worker: str = ""
    attempts: int = 1

    def header(self) -> Header:
        return {
            "decode_ms": self.times.decode,
            "infer_ms": self.times.infer,
            "worker_ms": self.times.worker,
            "model": self.model,
            "digest": self.digest,
            "worker": self.worker,
            "attempts": self.attempts,
            "queue_ms": self.times.queue,
            "broker_ms": self.times.broker,
        }

    def completed(
        self,
        model: str,
        digest: str,
        worker: str,
        attempts: int,
        queue_ms: float,
        broker_ms: float,
    ) -> Result:
        """The same with what the broker knows of it."""
        spent = self.times
        times = Times(spent.decode, spent.infer, spent.worker, queue_ms, broker_ms)
        return Result(self.id, times, self.body, model, digest, worker, attempts)

    @classmethod
    def read(cls, id: bytes, header: Header, body: Body) -> Result:
        if not body.parts:
            raise ProtocolError("a result carries predictions")
        return cls(
            id=id,
            times=Times(
                decode=read.number(header, "decode_ms", 0.0),
                infer=read.number(header, "infer_ms"),
                worker=read.number(header, "worker_ms", 0.0),
                queue=read.number(header, "queue_ms", 0.0),
                broker=read.number(header, "broker_ms", 0.0),
            ),
            body=body,
            model=read.name(header, "model", optional=True),
            digest=read.digest(header, "digest", optional=True),
            worker=read.name(header, "worker", optional=True),
            attempts=read.whole(header, "attempts", 1, 1000, 1),
        )


@dataclass(frozen=True, slots=True)
class Ack:
    """A: your D arrived. From a worker: whole, checksum right. From the broker: accepted."""

    TYPE: ClassVar[bytes] = b"A"
    id: bytes

    def header(self) -> Header:
        return {}

    @classmethod
    def read(cls, id: bytes, header: Header, body: Body) -> Ack:
        return cls(id)


@dataclass(frozen=True, slots=True)
class Nack:
    """N: this D has no predictions, for this reason. To a client it is the final answer."""

    TYPE: ClassVar[bytes] = b"N"
    id: bytes  # empty when it refuses a READY
    reason: Reason
    detail: str = ""
    batch: int = 1  # pictures the child was computing when it crashed or hung

    def header(self) -> Header:
        detail = read.sentence(self.detail)
        return {"reason": self.reason.value, "detail": detail, "batch": self.batch}

    @classmethod
    def read(cls, id: bytes, header: Header, body: Body) -> Nack:
        try:
            reason = Reason(header.get("reason"))
        except ValueError:
            raise ProtocolError("unknown reason") from None
        return cls(
            id, reason, read.text(header, "detail"), read.whole(header, "batch", 1, MAX_CREDIT, 1)
        )


@dataclass(frozen=True, slots=True)
class Cancel:
    """C: nobody waits for this request any more."""

    TYPE: ClassVar[bytes] = b"C"
    id: bytes

    def header(self) -> Header:
        return {}

    @classmethod
    def read(cls, id: bytes, header: Header, body: Body) -> Cancel:
        return cls(id)


@dataclass(frozen=True, slots=True)
class Query:
    """Q going to the broker: report the status, drain or remove a worker, dial an address."""

    TYPE: ClassVar[bytes] = b"Q"
    id: bytes
    op: Op
    target: str = ""

    def header(self) -> Header:
        return {"op": self.op.value, "target": self.target}

    @classmethod
    def read(cls, id: bytes, header: Header, body: Body) -> Query:
        try:
            op = Op(header.get("op"))
        except ValueError:
            raise ProtocolError("unknown op") from None
        return cls(id, op, read.text(header, "target", MAX_TARGET))


@dataclass(frozen=True, slots=True)
class Reply:
    """Q coming back: whether it was done, a sentence, and for `status` the snapshot as JSON."""

    TYPE: ClassVar[bytes] = b"Q"
    id: bytes
    ok: bool
    detail: str = ""
    body: Body = field(default_factory=Body)
    allowed: bool = True  # else it was not done because of who asked

    def header(self) -> Header:
        return {"ok": self.ok, "detail": read.sentence(self.detail), "allowed": self.allowed}

    @classmethod
    def read(cls, id: bytes, header: Header, body: Body) -> Reply:
        allowed = read.flag(header, "allowed", True)
        return cls(id, read.flag(header, "ok"), read.text(header, "detail"), body, allowed)
