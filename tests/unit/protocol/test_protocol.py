"""The codec: every message comes back as it went, and no bytes raise anything else."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_messages import ID, READY, REQUEST, RESULT, ROUTES, assert_seen, sealed

from spyglass.protocol import (
    PART_BYTES,
    Body,
    Bye,
    Direction,
    Heartbeat,
    Message,
    ProtocolError,
    Request,
    Result,
    Times,
    decode,
    encode,
)


@pytest.mark.parametrize(("direction", "message"), ROUTES)
def test_a_message_comes_back_as_it_went(direction: Direction, message: Message) -> None:
    assert encode(decode(encode(message), direction)) == encode(message)


@pytest.mark.parametrize("message", [READY, RESULT, Heartbeat(), Bye()])
def test_a_client_may_not_send_a_workers_messages(message: Message) -> None:
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
