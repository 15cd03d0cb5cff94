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

header.py reads and writes headers, messages.py and worker_messages.py define what may stand in
them, PROTOCOL.md is the contract in prose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from json.encoder import encode_basestring_ascii as quoted
from typing import TypeAlias

from isal.isal_zlib import crc32

from spyglass.protocol.header import MAX_HEADER_BYTES, Header, ProtocolError, dump, load
from spyglass.protocol.messages import (
    MAX_ANSWER_PARTS,
    NO_BODY,
    PART_BYTES,
    Ack,
    Body,
    Cancel,
    Nack,
    Part,
    Query,
    Reply,
    Request,
    Result,
)
from spyglass.protocol.worker_messages import Bye, Heartbeat, Ready

VERSION = b"SPY1"

#: Bytes of a request id. 128 random bits: nobody guesses another's request.
ID_BYTES = 16
#: Frames of a message before its parts.
LEADING = 5
#: Parts of one message: 64 MiB, six times the web's default upload limit.
MAX_PARTS = 1024

#: A heartbeat without fields, as most are, and its frames, encoded once.
BEAT = Heartbeat()
_BEAT: list[Part] = [VERSION, Heartbeat.TYPE, b"", b"{}", crc32(b"H{}").to_bytes(4, "big")]


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
        self.beats = Heartbeat in kinds
        self.most_parts = MAX_ANSWER_PARTS if Ready in kinds else MAX_PARTS

    @property
    def most_frames(self) -> int:
        """Frames of the longest message."""
        return LEADING + self.most_parts


_NO_ID = frozenset((b"R", b"H", b"B"))
_WITH_PARTS = frozenset((b"D", b"Q"))


def encode(message: Message) -> list[Part]:
    """The frames of a message, ready to be sent.

    Raises:
        ProtocolError: the header would exceed 4 KiB or the body 1,024 parts, or a field is none
            that can be written (our own mistake); nothing but that.
    """
    if type(message) is Heartbeat and message == BEAT:
        return list(_BEAT)
    body: Body = getattr(message, "body", NO_BODY)
    try:
        if type(message) is Request:
            header = _request_header(message)
        elif type(message) is Result:
            header = _result_header(message)
        else:
            header = dump(message.header())
    except (TypeError, ValueError) as error:
        raise ProtocolError(f"a header that cannot be written: {error}") from None
    if len(header) > MAX_HEADER_BYTES:
        raise ProtocolError(f"header of {len(header)} bytes; the limit is {MAX_HEADER_BYTES}")
    if len(body.parts) > MAX_PARTS:
        raise ProtocolError(f"body of {len(body.parts)} parts; the limit is {MAX_PARTS}")
    crc = crc32(message.TYPE + message.id + header) ^ body.crc
    return [VERSION, message.TYPE, message.id, header, crc.to_bytes(4, "big"), *body.parts]


# The two headers that each picture needs, at every hop, are written by hand: a quarter of
# what the JSON encoder takes. A test holds them to what it would write.


def _request_header(request: Request) -> bytes:
    return (
        f'{{"model":{quoted(request.model)},"top_k":{request.top_k}'
        f',"budget_ms":{request.budget_ms},"sha256":{quoted(request.sha256)}'
        f',"attempt":{request.attempt},"alone":{"true" if request.alone else "false"}}}'
    ).encode()


def _result_header(result: Result) -> bytes:
    times = result.times
    return (
        f'{{"decode_ms":{times.decode!r},"infer_ms":{times.infer!r},"worker_ms":{times.worker!r}'
        f',"model":{quoted(result.model)},"digest":{quoted(result.digest)}'
        f',"worker":{quoted(result.worker)},"attempts":{result.attempts}'
        f',"queue_ms":{times.queue!r},"broker_ms":{times.broker!r}}}'
    ).encode()


def decode(frames: Sequence[Part], direction: Direction) -> Message:
    """One message from a peer's frames; nothing past this line sees raw frames.

    The parts are neither copied nor read: `Body.intact()` does that where it is due. A message
    without parts is checked completely here.

    Raises:
        ProtocolError: whatever is wrong with the frames, and nothing but that.
    """
    if len(frames) < LEADING:
        raise ProtocolError(f"{len(frames)} frames; a message has at least {LEADING}")
    leading = frames[:LEADING]
    if direction.beats and len(frames[2]) == 0 and [*map(bytes, frames)] == _BEAT:
        return BEAT
    if max(map(len, leading)) > MAX_HEADER_BYTES:
        raise ProtocolError(f"a leading frame exceeds {MAX_HEADER_BYTES} bytes")
    version, kind, id, header, crc = [bytes(frame) for frame in leading]
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
    body_crc = int.from_bytes(crc, "big") ^ crc32(kind + id + header)
    if len(frames) > LEADING:
        body = Body(_checked(kind, tuple(frames[LEADING:]), direction.most_parts), body_crc)
    elif body_crc:
        raise ProtocolError("the checksum is wrong")
    else:
        body = NO_BODY
    return reader(id, load(header), body)


def _checked(kind: bytes, parts: tuple[Part, ...], most: int) -> tuple[Part, ...]:
    if kind not in _WITH_PARTS:
        raise ProtocolError("this type carries no parts")
    if len(parts) > most or max(map(len, parts)) > PART_BYTES:
        raise ProtocolError(f"more than {most} parts, or a part above {PART_BYTES} bytes")
    return parts
