"""SPY1: the messages between client, broker and worker, and nothing else.

A message is a list of frames, `[version][type][id][header][crc][part]*`:

    version  b"SPY1"
    type     one byte: D A N R H B C Q
    id       16 random bytes naming a request; empty for membership (R, H, B)
    header   a JSON object of at most 4 KiB
    crc      4 bytes, big endian: CRC-32(type + id + header) XOR CRC-32(all parts)
    part     at most 64 KiB each: a picture on its way down, predictions on their way up

The checksum is a XOR so that the broker can write a new header without reading the picture: it
takes the old header's CRC out and puts the new one's in, and what is left is still the sender's
own checksum of the parts. Damage anywhere on the way is therefore seen at the far end.

PROTOCOL.md is the contract in prose. No sockets, no clocks, no logging here.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, TypeAlias

#: This release of Spyglass, shown on the status page and in `--help`.
RELEASE = "0.1.0"

VERSION = b"SPY1"
#: Said in READY; the broker refuses a worker that speaks another revision.
PROTOCOL_REVISION = 1

#: Bytes of a request id. 128 random bits: nobody guesses another's request.
ID_BYTES = 16
#: Bytes of a JSON header. Every legal header fits four times over; more is an attack.
MAX_HEADER_BYTES = 4 * 1024
#: Bytes of one part. libzmq counts only whole frames as a sign of life, so a picture in one
#: 4 MB frame gets a slow link cut in the middle of it; 64 KiB passes in 66 ms at 8 Mbit/s.
PART_BYTES = 64 * 1024
#: Parts of one message: 64 MiB, six times the web's default upload limit.
MAX_PARTS = 1024
#: Items a heartbeat tells of single children; a machine with more says so by `processes`.
MAX_CHILDREN_TOLD = 32

#: Seconds between two heartbeats, in both directions. Short, because a frozen machine is only
#: noticed by silence; cheap, because a heartbeat costs about 20 us of broker time.
HEARTBEAT_INTERVAL = 0.5
#: Silent intervals after which a peer counts as dead: 1.5 s in all.
LIVENESS = 3
#: Bytes a second of the slowest link served (8 Mbit/s, a tenth of it for TCP/IP): whoever waits for
#: an ACK allows the picture this long to arrive.
SLOWEST_LINK = 0.9e6
#: Seconds a request may take when the caller names no limit.
DEFAULT_TIMEOUT = 10.0
#: Seconds, the longest limit a caller may ask for. An hour serves any overnight batch.
MAX_TIMEOUT = 3600.0
#: Seconds one picture may occupy a worker's child before the child is killed. SqueezeNet needs
#: some 10 ms; five seconds means that the computation hangs.
DEFAULT_JOB_LIMIT = 5.0
#: Predictions a caller may ask for: all of ImageNet's labels.
MAX_TOP_K = 1000
#: Credit a worker may announce: 64 children with sixteen requests each.
MAX_CREDIT = 1024

NAME = re.compile(r"[A-Za-z0-9._#-]{1,64}")
HEX = re.compile(r"[0-9a-f]{64}")

#: bytes, memoryview or zmq.Frame: anything with a length and the buffer protocol.
Part: TypeAlias = Any
Header: TypeAlias = dict[str, Any]


class ProtocolError(ValueError):
    """A peer's bytes are not a legal message. The only error `decode` raises."""


class Reason(Enum):
    """Why a request was not (or not yet) answered with predictions; the word in a NACK."""

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


class Op(Enum):
    """What a client may ask of the broker with Q."""

    STATUS = "status"
    DRAIN = "drain"
    REMOVE = "remove"
    ADD = "add"
    CLEAR = "clear"


def crc_of(parts: Sequence[Part], crc: int = 0) -> int:
    """CRC-32 over the parts as if they were one string of bytes."""
    for part in parts:
        crc = zlib.crc32(part, crc)
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
        return cls(parts, zlib.crc32(data))

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


# --- reading a header: one checked field at a time --------------------------------------------


def _int(header: Header, key: str, low: int, high: int, default: int | None = None) -> int:
    value = header.get(key, default)
    if type(value) is not int or not low <= value <= high:
        raise ProtocolError(f"{key} must be a whole number from {low} to {high}")
    return value


def _number(header: Header, key: str, default: float | None = None) -> float:
    value = header.get(key, default)
    if type(value) not in (int, float) or not 0 <= value <= 1e9:  # type: ignore[operator]
        raise ProtocolError(f"{key} must be a number from 0 to 1e9")
    return float(value)  # type: ignore[arg-type]


def _text(header: Header, key: str, limit: int = 500, default: str | None = "") -> str:
    value = header.get(key, default)
    # isprintable() also keeps out lone surrogates, which no encoder accepts later on.
    if type(value) is not str or len(value) > limit or not value.isprintable():
        raise ProtocolError(f"{key} must be printable text of at most {limit} characters")
    return value


def _name(header: Header, key: str, optional: bool = False) -> str:
    value = header.get(key, "" if optional else None)
    if type(value) is not str or not (NAME.fullmatch(value) or (optional and not value)):
        raise ProtocolError(f"{key} must match {NAME.pattern}")
    return value


def _digest(header: Header, key: str, optional: bool = False) -> str:
    value = header.get(key, "" if optional else None)
    if type(value) is not str or not (HEX.fullmatch(value) or (optional and not value)):
        raise ProtocolError(f"{key} must be 64 hexadecimal digits")
    return value


def _flag(header: Header, key: str) -> bool:
    value = header.get(key, False)
    if type(value) is not bool:
        raise ProtocolError(f"{key} must be true or false")
    return value


# --- the messages -----------------------------------------------------------------------------


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

    @classmethod
    def read(cls, id: bytes, header: Header, body: Body) -> Request:
        if not body.parts:
            raise ProtocolError("a request carries a picture")
        return cls(
            id=id,
            model=_name(header, "model", optional=True),
            top_k=_int(header, "top_k", 1, MAX_TOP_K),
            budget_ms=_int(header, "budget_ms", 0, int(MAX_TIMEOUT * 1000)),
            sha256=_digest(header, "sha256"),
            body=body,
            attempt=_int(header, "attempt", 1, 1000, 1),
            alone=_flag(header, "alone"),
        )


@dataclass(frozen=True, slots=True)
class Result:
    """D going up: predictions (JSON in the body). The broker adds who, how often, how long."""

    TYPE: ClassVar[bytes] = b"D"
    id: bytes
    infer_ms: float
    body: Body
    model: str = ""
    digest: str = ""
    worker: str = ""
    attempts: int = 1
    queue_ms: float = 0.0

    def header(self) -> Header:
        return {
            "infer_ms": self.infer_ms,
            "model": self.model,
            "digest": self.digest,
            "worker": self.worker,
            "attempts": self.attempts,
            "queue_ms": self.queue_ms,
        }

    @classmethod
    def read(cls, id: bytes, header: Header, body: Body) -> Result:
        if not body.parts:
            raise ProtocolError("a result carries predictions")
        return cls(
            id=id,
            infer_ms=_number(header, "infer_ms"),
            body=body,
            model=_name(header, "model", optional=True),
            digest=_digest(header, "digest", optional=True),
            worker=_name(header, "worker", optional=True),
            attempts=_int(header, "attempts", 1, 1000, 1),
            queue_ms=_number(header, "queue_ms", 0.0),
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
    batch: int = 1  # pictures the child had in hand when it crashed or hung

    def header(self) -> Header:
        return {"reason": self.reason.value, "detail": self.detail, "batch": self.batch}

    @classmethod
    def read(cls, id: bytes, header: Header, body: Body) -> Nack:
        try:
            reason = Reason(header.get("reason"))
        except ValueError:
            raise ProtocolError("reason is none of the known words") from None
        return cls(id, reason, _text(header, "detail"), _int(header, "batch", 1, MAX_CREDIT, 1))


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
            "host": self.host,
            "pid": self.pid,
            "name": self.name,
            "processes": self.processes,
        }

    @classmethod
    def read(cls, id: bytes, header: Header, body: Body) -> Ready:
        return cls(
            model=_name(header, "model"),
            digest=_digest(header, "digest"),
            credit=_int(header, "credit", 1, MAX_CREDIT),
            host=_text(header, "host", 255, None),
            pid=_int(header, "pid", 0, 2**31),
            name=_name(header, "name"),
            processes=_int(header, "processes", 1, MAX_CREDIT),
            revision=_int(header, "revision", 1, 1000),
        )


@dataclass(frozen=True, slots=True)
class ChildState:
    """What one child of a worker is doing: `idle`, `busy` or `starting`, for how long."""

    pid: int
    state: str
    for_ms: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """H: I live. From a worker also what its children do. It never gives credit."""

    TYPE: ClassVar[bytes] = b"H"
    children: tuple[ChildState, ...] = ()
    id: bytes = field(default=b"", init=False)

    def header(self) -> Header:
        told = self.children[:MAX_CHILDREN_TOLD]
        return {"children": [[c.pid, c.state, c.for_ms] for c in told]} if told else {}

    @classmethod
    def read(cls, id: bytes, header: Header, body: Body) -> Heartbeat:
        rows = header.get("children", [])
        if type(rows) is not list or len(rows) > MAX_CHILDREN_TOLD:
            raise ProtocolError(f"children must be a list of at most {MAX_CHILDREN_TOLD}")
        return cls(tuple(map(cls._child, rows)))

    @staticmethod
    def _child(row: object) -> ChildState:
        if type(row) is not list or len(row) != 3:
            raise ProtocolError("a child is told as [pid, state, milliseconds]")
        fields = dict(zip(("pid", "state", "for_ms"), row, strict=True))
        return ChildState(
            _int(fields, "pid", 0, 2**31),
            _text(fields, "state", 16),
            _int(fields, "for_ms", 0, 2**40),
        )


@dataclass(frozen=True, slots=True)
class Bye:
    """B: goodbye, or "start over".

    From a worker: no more work, please; I still owe `owed` answers (0: I am gone).
    From the broker: `again` true, I do not know you, say READY; false, you are removed: leave.
    """

    TYPE: ClassVar[bytes] = b"B"
    reason: str = ""
    owed: int = 0
    again: bool = False
    id: bytes = field(default=b"", init=False)

    def header(self) -> Header:
        return {"reason": self.reason, "owed": self.owed, "again": self.again}

    @classmethod
    def read(cls, id: bytes, header: Header, body: Body) -> Bye:
        owed = _int(header, "owed", 0, MAX_CREDIT, 0)
        return cls(_text(header, "reason"), owed, _flag(header, "again"))


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
    """Q going to the broker: tell the status, drain or remove a worker, dial an address."""

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
            raise ProtocolError("op is none of the known words") from None
        return cls(id, op, _text(header, "target", 255))


@dataclass(frozen=True, slots=True)
class Reply:
    """Q coming back: whether it was done, a sentence, and for `status` the snapshot as JSON."""

    TYPE: ClassVar[bytes] = b"Q"
    id: bytes
    ok: bool
    detail: str = ""
    body: Body = field(default_factory=Body)

    def header(self) -> Header:
        return {"ok": self.ok, "detail": self.detail}

    @classmethod
    def read(cls, id: bytes, header: Header, body: Body) -> Reply:
        return cls(id, _flag(header, "ok"), _text(header, "detail"), body)


Message: TypeAlias = (
    Request | Result | Ack | Nack | Ready | Heartbeat | Bye | Cancel | Query | Reply
)
Reader: TypeAlias = Callable[[bytes, Header, Body], Message]


class Direction(Enum):
    """Who speaks to whom: the legal message types of each of the four directions."""

    CLIENT_TO_BROKER = (Request, Cancel, Query)
    BROKER_TO_CLIENT = (Result, Ack, Nack, Reply)
    BROKER_TO_WORKER = (Request, Nack, Heartbeat, Bye, Cancel)
    WORKER_TO_BROKER = (Result, Ack, Nack, Ready, Heartbeat, Bye)

    def __init__(self, *kinds: type[Message]) -> None:
        self.readers: dict[bytes, Reader] = {kind.TYPE: kind.read for kind in kinds}


_NO_ID = frozenset((b"R", b"H", b"B"))
_WITH_PARTS = frozenset((b"D", b"Q"))


def encode(message: Message) -> list[Part]:
    """The frames of a message, ready for `send_multipart`.

    Raises:
        ProtocolError: the header would exceed 4 KiB or the body 1,024 parts (our own mistake).
    """
    header = json.dumps(message.header(), separators=(",", ":")).encode()
    body: Body = getattr(message, "body", _EMPTY)
    if len(header) > MAX_HEADER_BYTES:
        raise ProtocolError(f"header of {len(header)} bytes; the limit is {MAX_HEADER_BYTES}")
    if len(body.parts) > MAX_PARTS:
        raise ProtocolError(f"body of {len(body.parts)} parts; the limit is {MAX_PARTS}")
    crc = zlib.crc32(message.TYPE + message.id + header) ^ body.crc
    return [VERSION, message.TYPE, message.id, header, crc.to_bytes(4, "big"), *body.parts]


def decode(frames: Sequence[Part], direction: Direction) -> Message:
    """One message from a peer's frames; nothing past this line sees raw frames.

    The parts are neither copied nor read: `Body.intact()` does that where it is due. A message
    without parts is checked completely here.

    Raises:
        ProtocolError: whatever is wrong with the frames, and nothing but that.
    """
    if len(frames) < 5:
        raise ProtocolError(f"{len(frames)} frames; a message has at least 5")
    if any(len(frame) > MAX_HEADER_BYTES for frame in frames[:5]):
        raise ProtocolError(f"a leading frame exceeds {MAX_HEADER_BYTES} bytes")
    version, kind, id, header, crc = (bytes(frame) for frame in frames[:5])
    if version != VERSION:
        raise ProtocolError("not an SPY1 message")
    reader = direction.readers.get(kind)
    if reader is None:
        raise ProtocolError(f"type {kind[:8]!r} is not legal here")
    refuses_ready = kind == b"N" and not id
    if len(id) != (0 if kind in _NO_ID or refuses_ready else ID_BYTES):
        raise ProtocolError(f"id of {len(id)} bytes")
    if len(crc) != 4:
        raise ProtocolError(f"checksum of {len(crc)} bytes")
    parts = tuple(frames[5:])
    body_crc = int.from_bytes(crc, "big") ^ zlib.crc32(kind + id + header)
    _check_parts(kind, parts, body_crc)
    return reader(id, _json_object(header), Body(parts, body_crc))


_EMPTY = Body()


def _check_parts(kind: bytes, parts: tuple[Part, ...], body_crc: int) -> None:
    if parts and kind not in _WITH_PARTS:
        raise ProtocolError("this type carries no parts")
    if not parts and body_crc:
        raise ProtocolError("the checksum is wrong")
    if len(parts) > MAX_PARTS or any(len(part) > PART_BYTES for part in parts):
        raise ProtocolError(f"more than {MAX_PARTS} parts, or a part above {PART_BYTES} bytes")


def _refuse_constant(word: str) -> None:
    raise ProtocolError(f"{word} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _json_object(header: bytes) -> Header:
    if header == b"{}":
        return {}
    try:
        value = _DECODER.decode(header.decode())
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"the header is not JSON: {type(error).__name__}") from None
    if type(value) is not dict:
        raise ProtocolError("the header must be a JSON object")
    return value
