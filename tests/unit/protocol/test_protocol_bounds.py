"""The codec's limits: sizes, counts and fields, each at its bound and one beyond."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from sample_messages import ID, READY, REQUEST, sealed

from spyglass.protocol import (
    ID_BYTES,
    MAX_CHILDREN_LISTED,
    MAX_CREDIT,
    MAX_HEADER_BYTES,
    MAX_PARTS,
    MAX_TARGET,
    PART_BYTES,
    VERSION,
    Ack,
    Body,
    Bye,
    ChildState,
    Direction,
    Heartbeat,
    Message,
    Nack,
    Op,
    ProtocolError,
    Query,
    Reason,
    Reply,
    decode,
    encode,
)
from spyglass.protocol.header import MAX_TEXT
from spyglass.protocol.worker_messages import MAX_HOST


def test_a_header_of_4_kib_is_taken_and_one_byte_more_refused() -> None:
    filling = MAX_HEADER_BYTES - len(b'{"x":""}')
    header = b'{"x":"' + b"a" * filling + b'"}'
    assert decode(sealed(b"A", ID, header), Direction.BROKER_TO_CLIENT) == Ack(ID)
    with pytest.raises(ProtocolError, match="exceeds"):
        decode(sealed(b"A", ID, b" " + header), Direction.BROKER_TO_CLIENT)


def test_encode_writes_a_header_of_4_kib_and_refuses_one_byte_more() -> None:
    room = MAX_HEADER_BYTES - len(encode(Query(ID, Op.DRAIN))[3])
    assert len(encode(Query(ID, Op.DRAIN, "a" * room))[3]) == MAX_HEADER_BYTES
    with pytest.raises(ProtocolError, match="header"):
        encode(Query(ID, Op.DRAIN, "a" * (room + 1)))


#: Characters of four bytes in UTF-8 and twelve in ASCII JSON, and of two in any JSON.
@pytest.mark.parametrize("character", ["\U0001f600", "\U00020000", "\u00fc", '"', "\\"])
def test_what_is_legal_to_receive_is_short_enough_to_send_on(character: str) -> None:
    text, host = character * MAX_TEXT, character * MAX_HOST
    full: list[tuple[Direction, Message]] = [
        (Direction.WORKER_TO_BROKER, replace(READY, host=host, model="m" * 64, name="n" * 64)),
        (Direction.WORKER_TO_BROKER, Bye(text, MAX_CREDIT)),
        (Direction.BROKER_TO_WORKER, Bye(text, again=True)),
        (Direction.WORKER_TO_BROKER, Nack(ID, Reason.TOO_MANY_PIXELS, text, MAX_CREDIT)),
        (Direction.BROKER_TO_CLIENT, Nack(ID, Reason.TOO_MANY_PIXELS, text, MAX_CREDIT)),
        (Direction.CLIENT_TO_BROKER, Query(ID, Op.REMOVE, character * MAX_TARGET)),
        (Direction.BROKER_TO_CLIENT, Reply(ID, False, text)),
    ]
    for direction, message in full:
        assert decode(encode(message), direction) == message


def test_a_sentence_of_ours_that_nobody_would_take_is_made_legal() -> None:
    long, odd = "a" * (MAX_TEXT + 1), "no\tPIL\n\ud83d file"
    for text, sent in ((long, long[:MAX_TEXT]), (odd, "no PIL   file")):
        nack = Nack(ID, Reason.BAD_IMAGE, text)
        assert decode(encode(nack), Direction.WORKER_TO_BROKER) == replace(nack, detail=sent)
        reply = Reply(ID, False, text)
        assert decode(encode(reply), Direction.BROKER_TO_CLIENT) == replace(reply, detail=sent)
        bye = decode(encode(Bye(text)), Direction.BROKER_TO_WORKER)
        assert bye == Bye(sent)
    named = decode(encode(replace(READY, host="h" * 300 + "\n")), Direction.WORKER_TO_BROKER)
    assert named == replace(READY, host="h" * MAX_HOST)


@pytest.mark.parametrize(
    "message",
    [
        replace(REQUEST, model=None),  # type: ignore[arg-type]
        replace(REQUEST, top_k=10**5000),  # Python writes no number so long
        Query(ID, Op.DRAIN, "\ud83d"),
        replace(READY, pid={1}),  # type: ignore[arg-type]
    ],
)
def test_encode_raises_nothing_but_its_own_error(message: Message) -> None:
    with pytest.raises(ProtocolError, match="cannot be written"):
        encode(message)


def test_encode_writes_1024_parts_and_refuses_one_more() -> None:
    longest = encode(replace(REQUEST, body=Body((b"x",) * MAX_PARTS)))
    assert len(longest) == 5 + MAX_PARTS == Direction.CLIENT_TO_BROKER.most_frames
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


def test_a_heartbeat_reports_32_children_and_refuses_33() -> None:
    children = tuple(ChildState(n, "idle", 0) for n in range(MAX_CHILDREN_LISTED + 1))
    told = decode(encode(Heartbeat(children)), Direction.WORKER_TO_BROKER)
    assert isinstance(told, Heartbeat) and told.children == children[:-1]
    rows = json.dumps({"children": [[1, "idle", 0]] * (MAX_CHILDREN_LISTED + 1)}).encode()
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


@pytest.mark.parametrize("value", ["1", '"true"', "null", "[]"])
def test_a_flag_that_is_neither_true_nor_false_is_refused(value: str) -> None:
    with pytest.raises(ProtocolError, match="again must be true or false"):
        decode(sealed(b"B", b"", b'{"again":%s}' % value.encode()), Direction.BROKER_TO_WORKER)


def test_a_result_without_predictions_is_refused() -> None:
    with pytest.raises(ProtocolError, match="predictions"):
        decode(sealed(b"D", ID, b'{"infer_ms":1}'), Direction.WORKER_TO_BROKER)


@pytest.mark.parametrize("child", ["7", "[]", '[1,"idle"]', '[1,"idle",0,0]', "{}"])
def test_a_child_that_is_no_list_of_three_is_refused(child: str) -> None:
    with pytest.raises(ProtocolError, match="child"):
        decode(sealed(b"H", b"", b'{"children":[%s]}' % child.encode()), Direction.WORKER_TO_BROKER)


def test_a_message_of_four_frames_is_refused() -> None:
    with pytest.raises(ProtocolError, match="4 frames"):
        decode(encode(Ack(ID))[:4], Direction.BROKER_TO_CLIENT)


@pytest.mark.parametrize("size", [0, 3, 5])
def test_a_checksum_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(ProtocolError, match="checksum of"):
        decode([*encode(Ack(ID))[:4], bytes(size)], Direction.BROKER_TO_CLIENT)


@pytest.mark.parametrize("header", [b"{}", b'{"op":"reboot"}', b'{"op":[]}'])
def test_a_query_of_an_unknown_operation_is_refused(header: bytes) -> None:
    with pytest.raises(ProtocolError, match="unknown op"):
        decode(sealed(b"Q", ID, header), Direction.CLIENT_TO_BROKER)
