"""What the tests of the messages share: one of each kind, and frames sealed by hand."""

from __future__ import annotations

import zlib

from spyglass.protocol import (
    ID_BYTES,
    VERSION,
    Ack,
    Body,
    Bye,
    Cancel,
    ChildState,
    Direction,
    Heartbeat,
    Message,
    Nack,
    Op,
    ProtocolError,
    Query,
    Ready,
    Reason,
    Reply,
    Request,
    Result,
    Times,
    decode,
)

ID = bytes(range(ID_BYTES))
SHA = "ab" * 32
REQUEST = Request(ID, "squeezenet1_1", 5, 900, SHA, Body.of(b"a picture"), attempt=2)
TIMES = Times(decode=2.5, infer=11.5, worker=15.0, queue=0.25, broker=16.5)
RESULT = Result(ID, TIMES, Body.of(b"[]"), "googlenet", SHA, "attic", 2)
READY = Ready("squeezenet1_1", SHA, 4, "host", 42, "attic", 2)
ROUTES: list[tuple[Direction, Message]] = [
    (Direction.CLIENT_TO_BROKER, REQUEST),
    (Direction.CLIENT_TO_BROKER, Cancel(ID)),
    (Direction.CLIENT_TO_BROKER, Query(ID, Op.DRAIN, "abcd")),
    (Direction.BROKER_TO_CLIENT, RESULT),
    (Direction.BROKER_TO_CLIENT, Ack(ID)),
    (Direction.BROKER_TO_CLIENT, Nack(ID, Reason.BUSY, "200 wait")),
    (Direction.BROKER_TO_CLIENT, Reply(ID, True, "done", Body.of(b"{}"))),
    (Direction.BROKER_TO_WORKER, REQUEST),
    (Direction.BROKER_TO_WORKER, Nack(b"", Reason.WRONG_MODEL, "other digest")),
    (Direction.BROKER_TO_WORKER, Heartbeat()),
    (Direction.BROKER_TO_WORKER, Heartbeat(interval_ms=2000)),
    (Direction.BROKER_TO_WORKER, Bye("not registered; send READY", again=True)),
    (Direction.BROKER_TO_WORKER, Cancel(ID)),
    (Direction.WORKER_TO_BROKER, RESULT),
    (Direction.WORKER_TO_BROKER, Ack(ID)),
    (Direction.WORKER_TO_BROKER, Nack(ID, Reason.CRASH)),
    (Direction.WORKER_TO_BROKER, READY),
    (Direction.WORKER_TO_BROKER, Heartbeat((ChildState(7, "busy", 1200),))),
    (Direction.WORKER_TO_BROKER, Bye("stopped", owed=2)),
]


def sealed(kind: bytes, id: bytes, header: bytes, *parts: bytes) -> list[bytes]:
    """The frames of any header and parts, their checksum right."""
    crc = zlib.crc32(kind + id + header) ^ zlib.crc32(b"".join(parts))
    return [VERSION, kind, id, header, crc.to_bytes(4, "big"), *parts]


def assert_seen(frames: list[bytes] | list[bytearray], direction: Direction) -> None:
    """Refused, or damaged by the checksum of its body; nothing else may happen."""
    try:
        damaged = decode(frames, direction)
    except ProtocolError:
        return
    assert not damaged.body.intact()  # type: ignore[union-attr]
