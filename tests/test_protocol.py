"""The codec: every message comes back as it went, and no bytes raise anything else."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmq_protocol import (
    ID_BYTES,
    MAX_HEADER_BYTES,
    MAX_PARTS,
    PART_BYTES,
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
    decode,
    encode,
)

ID = bytes(range(ID_BYTES))
SHA = "ab" * 32
REQUEST = Request(ID, "squeezenet1_1", 5, 900, SHA, Body.of(b"a picture"), attempt=2)
RESULT = Result(ID, 11.5, Body.of(b"[]"), "googlenet", SHA, "attic", 2, 0.25)
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
    (Direction.BROKER_TO_WORKER, Bye("unknown here", again=True)),
    (Direction.BROKER_TO_WORKER, Cancel(ID)),
    (Direction.WORKER_TO_BROKER, RESULT),
    (Direction.WORKER_TO_BROKER, Ack(ID)),
    (Direction.WORKER_TO_BROKER, Nack(ID, Reason.CRASH)),
    (Direction.WORKER_TO_BROKER, READY),
    (Direction.WORKER_TO_BROKER, Heartbeat((ChildState(7, "busy", 1200),))),
    (Direction.WORKER_TO_BROKER, Bye("stopped", owed=2)),
]


@pytest.mark.parametrize(("direction", "message"), ROUTES)
def test_a_message_comes_back_as_it_went(direction: Direction, message: Message) -> None:
    assert encode(decode(encode(message), direction)) == encode(message)


@pytest.mark.parametrize("message", [READY, RESULT, Heartbeat(), Bye()])
def test_a_client_may_not_speak_as_a_worker(message: Message) -> None:
    with pytest.raises(ProtocolError):
        decode(encode(message), Direction.CLIENT_TO_BROKER)


@given(st.lists(st.binary(max_size=80), max_size=8), st.sampled_from(Direction))
def test_random_frames_raise_only_protocol_errors(
    frames: list[bytes], direction: Direction
) -> None:
    with pytest.raises(ProtocolError):
        decode(frames, direction)


@given(st.sampled_from(ROUTES), st.data())
def test_a_flipped_bit_is_always_seen(
    route: tuple[Direction, Message], data: st.DataObject
) -> None:
    direction, message = route
    frames = [bytearray(bytes(frame)) for frame in encode(message)]
    frame = data.draw(st.sampled_from([f for f in frames if f]))
    position = data.draw(st.integers(0, len(frame) - 1))
    frame[position] ^= 1 << data.draw(st.integers(0, 7))
    try:
        damaged = decode(frames, direction)
    except ProtocolError:
        return
    assert not damaged.body.intact()  # type: ignore[union-attr]


def test_the_broker_may_write_a_new_header_without_touching_the_checksum_of_the_picture() -> None:
    passing = decode(encode(REQUEST), Direction.CLIENT_TO_BROKER)
    assert isinstance(passing, Request)
    forwarded = decode(encode(replace(passing, budget_ms=1)), Direction.BROKER_TO_WORKER)
    assert isinstance(forwarded, Request) and forwarded.body.intact()
    assert forwarded.budget_ms == 1


def test_damage_before_the_broker_is_still_seen_behind_it() -> None:
    frames = encode(REQUEST)
    frames[3] = frames[3].replace(b'"top_k":5', b'"top_k":6')
    passing = decode(frames, Direction.CLIENT_TO_BROKER)
    assert isinstance(passing, Request)
    forwarded = decode(encode(replace(passing, budget_ms=1)), Direction.BROKER_TO_WORKER)
    assert isinstance(forwarded, Request) and not forwarded.body.intact()


def sealed(kind: bytes, id: bytes, header: bytes, *parts: bytes) -> list[bytes]:
    crc = zlib.crc32(kind + id + header) ^ zlib.crc32(b"".join(parts))
    return [VERSION, kind, id, header, crc.to_bytes(4, "big"), *parts]


def test_a_header_of_4_kib_is_taken_and_one_byte_more_refused() -> None:
    filling = MAX_HEADER_BYTES - len(b'{"x":""}')
    header = b'{"x":"' + b"a" * filling + b'"}'
    assert decode(sealed(b"A", ID, header), Direction.BROKER_TO_CLIENT) == Ack(ID)
    with pytest.raises(ProtocolError, match="exceeds"):
        decode(sealed(b"A", ID, b" " + header), Direction.BROKER_TO_CLIENT)


def test_a_part_of_64_kib_is_taken_and_one_byte_more_refused() -> None:
    header = encode(REQUEST)[3]
    decode(sealed(b"D", ID, header, bytes(PART_BYTES)), Direction.CLIENT_TO_BROKER)
    with pytest.raises(ProtocolError, match="parts"):
        decode(sealed(b"D", ID, header, bytes(PART_BYTES + 1)), Direction.CLIENT_TO_BROKER)


def test_1024_parts_are_taken_and_one_more_refused() -> None:
    header = encode(REQUEST)[3]
    decode(sealed(b"D", ID, header, *[b"x"] * MAX_PARTS), Direction.CLIENT_TO_BROKER)
    with pytest.raises(ProtocolError, match="parts"):
        decode(sealed(b"D", ID, header, *[b"x"] * (MAX_PARTS + 1)), Direction.CLIENT_TO_BROKER)


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 4000,
        b'{"reason":NaN}',
        b'{"reason":' + b"9" * 4000 + b"}",
        b'{"reason":"busy","detail":"\\ud800"}',
        b'{"reason":"busy","detail":5}',
        b'{"reason":["busy"]}',
        b"[]",
        b"null",
        b"\xff",
        b"",
    ],
)
def test_a_json_trap_is_a_protocol_error(header: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(sealed(b"N", ID, header), Direction.BROKER_TO_CLIENT)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("credit", 0),
        ("credit", 1025),
        ("credit", True),
        ("name", "a b"),
        ("name", "x" * 65),
        ("digest", "AB" * 32),
        ("model", ""),
        ("pid", -1),
        ("host", "line\nbreak"),
    ],
)
def test_a_ready_with_a_field_out_of_bounds_is_refused(field: str, value: object) -> None:
    header = json.dumps(READY.header() | {field: value}).encode()
    with pytest.raises(ProtocolError, match=field):
        decode(sealed(b"R", b"", header), Direction.WORKER_TO_BROKER)
