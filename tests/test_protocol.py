"""The codec: every message comes back as it went, and no bytes raise anything else."""

from __future__ import annotations

import json
import zlib
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmq_protocol import (
    ID_BYTES,
    MAX_CHILDREN_TOLD,
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
    Times,
    decode,
    encode,
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


@pytest.mark.parametrize("direction", Direction)
def test_every_legal_type_of_a_direction_is_among_the_routes(direction: Direction) -> None:
    assert {m.TYPE for d, m in ROUTES if d is direction} == set(direction.readers)


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("message", [m for _, m in ROUTES])
def test_a_type_is_read_exactly_where_it_is_legal(direction: Direction, message: Message) -> None:
    if message.TYPE in direction.readers:
        return  # D and Q change their meaning with the direction; ROUTES has the legal ones
    with pytest.raises(ProtocolError, match="not legal"):
        decode(encode(message), direction)


@given(st.sampled_from(ROUTES), st.data())
def test_a_truncated_message_is_refused_or_seen_as_damaged(
    route: tuple[Direction, Message], data: st.DataObject
) -> None:
    direction, message = route
    frames = [bytes(frame) for frame in encode(message)]
    if data.draw(st.booleans(), label="whole frames"):
        frames = frames[: data.draw(st.integers(0, len(frames) - 1))]
    else:
        at = data.draw(st.sampled_from([n for n, frame in enumerate(frames) if frame]))
        frames[at] = frames[at][: data.draw(st.integers(0, len(frames[at]) - 1))]
    assert_seen(frames, direction)


@given(st.sampled_from(ROUTES), st.data())
def test_a_message_grown_by_some_bytes_is_refused_or_seen_as_damaged(
    route: tuple[Direction, Message], data: st.DataObject
) -> None:
    direction, message = route
    frames = [bytes(frame) for frame in encode(message)]
    at = data.draw(st.integers(0, len(frames) - 1))
    frames[at] += data.draw(st.binary(min_size=1, max_size=20))
    assert_seen(frames, direction)


WORDS = st.text(st.characters(codec="utf-8"), max_size=20)
COUNTS = st.integers(-(2**40), 2**40)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
REQUESTS = st.builds(
    Request, st.just(ID), WORDS, COUNTS, COUNTS, WORDS, st.just(Body()), COUNTS, st.booleans()
)
RESULTS = st.builds(
    Result,
    st.just(ID),
    st.builds(Times, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS),
    st.just(Body()),
    WORDS,
    WORDS,
    WORDS,
    COUNTS,
)


@given(REQUESTS | RESULTS | st.sampled_from([message for _, message in ROUTES]))
def test_a_header_is_written_as_the_json_encoder_would(message: Message) -> None:
    plain = json.dumps(message.header(), separators=(",", ":"))
    assert encode(message)[3] == plain.encode()


@pytest.mark.parametrize("space", [b" ", b"\n\t"])
def test_white_space_around_a_header_is_json_too(space: bytes) -> None:
    header = space + encode(RESULT)[3] + space
    message = decode(sealed(b"D", ID, header, b"[]"), Direction.WORKER_TO_BROKER)
    assert isinstance(message, Result) and message.worker == RESULT.worker


FIELDS = sorted({key for _, message in ROUTES for key in message.header()})
TEXT = st.text("a.\n\0\u00e9\ud800\U0001f600", max_size=8)
LEAF = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
JSON_VALUES = LEAF | st.lists(LEAF | st.lists(LEAF, max_size=3), max_size=3)


@given(st.sampled_from(Direction), st.data())
def test_a_sealed_header_of_random_json_raises_only_protocol_errors(
    direction: Direction, data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from(sorted(direction.readers)))
    header = data.draw(st.dictionaries(st.sampled_from(FIELDS), JSON_VALUES, max_size=5))
    id = b"" if kind in b"RHB" else ID
    parts = [b"picture"] if kind in b"DQ" else []
    with suppress(ProtocolError):
        decode(sealed(kind, id, json.dumps(header).encode(), *parts), direction)


def assert_seen(frames: list[bytes] | list[bytearray], direction: Direction) -> None:
    """Refused, or the body says that it is damaged; nothing else may happen."""
    try:
        damaged = decode(frames, direction)
    except ProtocolError:
        return
    assert not damaged.body.intact()  # type: ignore[union-attr]


@pytest.mark.parametrize("place", ["type", "id", "header", "checksum", "part"])
def test_one_flipped_bit_is_seen_wherever_it_is(place: str) -> None:
    at = ["type", "id", "header", "checksum", "part"].index(place) + 1
    for direction, message in ROUTES:
        for position in range(len(encode(message)[at]) if at < len(encode(message)) else 0):
            for bit in range(8):
                frames = [bytearray(bytes(frame)) for frame in encode(message)]
                frames[at][position] ^= 1 << bit
                assert_seen(frames, direction)


@given(st.sampled_from(ROUTES), st.data())
def test_a_flipped_bit_is_always_seen(
    route: tuple[Direction, Message], data: st.DataObject
) -> None:
    direction, message = route
    frames = [bytearray(bytes(frame)) for frame in encode(message)]
    frame = data.draw(st.sampled_from([f for f in frames if f]))
    position = data.draw(st.integers(0, len(frame) - 1))
    frame[position] ^= 1 << data.draw(st.integers(0, 7))
    assert_seen(frames, direction)


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


def test_a_damaged_picture_stays_damaged_however_often_its_header_is_rewritten() -> None:
    frames = encode(REQUEST)
    frames[5] = b"A picture"
    for budget in (500, 400, 300):
        passing = decode(frames, Direction.CLIENT_TO_BROKER)
        assert isinstance(passing, Request) and not passing.body.intact()
        frames = encode(replace(passing, budget_ms=budget))


def test_a_picture_of_several_parts_is_cut_at_64_kib_and_joined_again() -> None:
    picture = bytes(range(256)) * 257 * 2
    body = Body.of(picture)
    assert [len(part) for part in body.parts] == [PART_BYTES, PART_BYTES, 512]
    assert body.join() == picture and body.intact() and body.size == len(picture)


def test_parts_in_another_order_are_seen() -> None:
    frames = encode(replace(REQUEST, body=Body.of(b"a" * PART_BYTES + b"b" * PART_BYTES)))
    frames[5], frames[6] = frames[6], frames[5]
    assert_seen(frames, Direction.CLIENT_TO_BROKER)


def sealed(kind: bytes, id: bytes, header: bytes, *parts: bytes) -> list[bytes]:
    crc = zlib.crc32(kind + id + header) ^ zlib.crc32(b"".join(parts))
    return [VERSION, kind, id, header, crc.to_bytes(4, "big"), *parts]


def test_a_header_of_4_kib_is_taken_and_one_byte_more_refused() -> None:
    filling = MAX_HEADER_BYTES - len(b'{"x":""}')
    header = b'{"x":"' + b"a" * filling + b'"}'
    assert decode(sealed(b"A", ID, header), Direction.BROKER_TO_CLIENT) == Ack(ID)
    with pytest.raises(ProtocolError, match="exceeds"):
        decode(sealed(b"A", ID, b" " + header), Direction.BROKER_TO_CLIENT)


def test_encode_writes_a_header_of_4_kib_and_refuses_one_byte_more() -> None:
    room = MAX_HEADER_BYTES - len(encode(Bye(""))[3])
    assert len(encode(Bye("a" * room))[3]) == MAX_HEADER_BYTES
    with pytest.raises(ProtocolError, match="header"):
        encode(Bye("a" * (room + 1)))


def test_encode_writes_1024_parts_and_refuses_one_more() -> None:
    assert len(encode(replace(REQUEST, body=Body((b"x",) * MAX_PARTS)))) == 5 + MAX_PARTS
    with pytest.raises(ProtocolError, match="parts"):
        encode(replace(REQUEST, body=Body((b"x",) * (MAX_PARTS + 1))))


@pytest.mark.parametrize("frame", range(5))
def test_a_leading_frame_above_4_kib_is_refused_unread(frame: int) -> None:
    frames = encode(REQUEST)
    frames[frame] = bytes(MAX_HEADER_BYTES + 1)
    with pytest.raises(ProtocolError, match="exceeds"):
        decode(frames, Direction.CLIENT_TO_BROKER)


@pytest.mark.parametrize("size", [0, ID_BYTES - 1, ID_BYTES + 1])
def test_an_id_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(ProtocolError, match="id of"):
        decode(sealed(b"C", bytes(size), b"{}"), Direction.CLIENT_TO_BROKER)


def test_membership_carries_no_id_and_an_ack_no_parts() -> None:
    with pytest.raises(ProtocolError, match="id of"):
        decode(sealed(b"H", ID, b"{}"), Direction.WORKER_TO_BROKER)
    with pytest.raises(ProtocolError, match="no parts"):
        decode(sealed(b"A", ID, b"{}", b"x"), Direction.WORKER_TO_BROKER)


def test_a_request_without_a_picture_is_refused() -> None:
    with pytest.raises(ProtocolError, match="picture"):
        decode(sealed(b"D", ID, encode(REQUEST)[3]), Direction.CLIENT_TO_BROKER)


def test_another_version_is_refused() -> None:
    with pytest.raises(ProtocolError, match="SPY1"):
        decode([b"SPY2", *encode(REQUEST)[1:]], Direction.CLIENT_TO_BROKER)


def test_a_heartbeat_tells_of_32_children_and_refuses_33() -> None:
    children = tuple(ChildState(n, "idle", 0) for n in range(MAX_CHILDREN_TOLD + 1))
    told = decode(encode(Heartbeat(children)), Direction.WORKER_TO_BROKER)
    assert isinstance(told, Heartbeat) and told.children == children[:-1]
    rows = json.dumps({"children": [[1, "idle", 0]] * (MAX_CHILDREN_TOLD + 1)}).encode()
    with pytest.raises(ProtocolError, match="children"):
        decode(sealed(b"H", b"", rows), Direction.WORKER_TO_BROKER)


def test_a_heartbeat_names_an_interval_of_up_to_a_minute() -> None:
    for interval_ms in (1, 60_000):
        beat = Heartbeat(interval_ms=interval_ms)
        assert decode(encode(beat), Direction.BROKER_TO_WORKER) == beat
    for wrong in (b"-1", b"60001", b"0.5"):
        with pytest.raises(ProtocolError, match="interval_ms"):
            decode(sealed(b"H", b"", b'{"interval_ms":%s}' % wrong), Direction.BROKER_TO_WORKER)


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
        b'{"reason":1' + b"0" * 4080 + b"}",
        b'{"reason":"busy","detail":1e999}',
        b'{"reason":"busy","detail":-Infinity}',
        b'{"reason":' * 400 + b"1" + b"}" * 400,
        b'{"reason":{"reason":"busy"}}',
        b'{"reason":null}',
        b'{"reason":"BUSY"}',
        b'{"detail":"no reason"}',
        b'{"reason":"busy","detail":null}',
        b'{"reason":"busy","detail":"a\\u0000b"}',
        b'{"reason":"busy"} {}',
        b'\xef\xbb\xbf{"reason":"busy"}',
        b'"reason"',
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


@pytest.mark.parametrize("value", ["1e999", "-1", "true", '"5"', "null", "9" * 4000, "[]", "-1e-9"])
def test_a_number_that_is_none_is_refused(value: str) -> None:
    header = b'{"infer_ms":' + value.encode() + b"}"
    with pytest.raises(ProtocolError, match="infer_ms"):
        decode(sealed(b"D", ID, header, b"[]"), Direction.WORKER_TO_BROKER)


def test_a_number_of_a_billion_digits_is_refused_by_its_length_alone() -> None:
    class Huge(bytes):
        """As long as it says, without the memory; reading it is the failure."""

        def __len__(self) -> int:
            return 10**9

        def __bytes__(self) -> bytes:
            raise AssertionError("it was read")

    frames = [VERSION, b"N", ID, Huge(b"9"), bytes(4)]
    with pytest.raises(ProtocolError, match="exceeds"):
        decode(frames, Direction.BROKER_TO_CLIENT)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("top_k", 0),
        ("top_k", 1001),
        ("top_k", 5.0),
        ("top_k", True),
        ("budget_ms", -1),
        ("budget_ms", 3_600_001),
        ("sha256", ""),
        ("sha256", "ab" * 31),
        ("model", "../etc"),
        ("model", None),
        ("attempt", 0),
    ],
)
def test_a_request_with_a_field_out_of_bounds_is_refused(field: str, value: object) -> None:
    header = json.dumps(REQUEST.header() | {field: value}).encode()
    with pytest.raises(ProtocolError, match=field):
        decode(sealed(b"D", ID, header, b"x"), Direction.CLIENT_TO_BROKER)


@pytest.mark.parametrize(("field", "values"), [("top_k", (1, 1000)), ("budget_ms", (0, 3_600_000))])
def test_the_bounds_themselves_are_taken(field: str, values: tuple[int, int]) -> None:
    for value in values:
        header = json.dumps(REQUEST.header() | {field: value}).encode()
        message = decode(sealed(b"D", ID, header, b"x"), Direction.CLIENT_TO_BROKER)
        assert getattr(message, field) == value
