"""How a picture's file is put together: its parts in order, as far as a decoder would read them.

Decoders walk through segments, chunks and blocks one by one, Pillow in Python at up to 2 µs each,
and a stranger may send millions. So they are counted here first. Nothing is decoded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import islice

#: Parts a file may have. Large pictures have some 1,500 (PNG in chunks of 8 KB); 10,000 empty ones
#: take Pillow 20 ms.
MAX_PARTS = 10_000

#: A JPEG's scan that does not hold the whole picture, so that others follow: all are kept in
#: memory as coefficients, and each costs a pass over the picture.
PARTIAL_SCAN = b"partial scan"

#: JPEG markers of a frame's head: all from C0 to CF but DHT, JPG and DAC.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = 0xC2
#: Kinds of frames that hardly any program writes or shows: arithmetic (slow to decode, and its
#: scans would have to be counted in another way), lossless and hierarchical.
RARE_FRAMES = frozenset(bytes([marker]) for marker in _FRAMES - {0xC0, 0xC1, _PROGRESSIVE})
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
#: JPEG markers that stand alone, without a length.
_ALONE = frozenset({*range(0x01, 0xC0), 0xC8, *range(0xD0, 0xD9), *range(0xF0, 0xFE)})
#: What ends a scan's data: a marker that is neither an escaped 255 nor a restart.
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def parts(name: str, data: bytes) -> list[bytes]:
    """The kinds of the parts in order, at most one more than `MAX_PARTS`.

    Args:
        name: Pillow's name of the format.
        data: the file.
    """
    walk = _WALKS.get(name)
    return list(islice(walk(data), MAX_PARTS + 1)) if walk else []


def _jpeg(data: bytes) -> Iterator[bytes]:
    """Markers until the scan that holds the picture or, if none does, until the last."""
    layers, progressive = 0, False
    at = 2
    while at + 5 <= len(data):
        marker = data[at + 1]
        if data[at] != 0xFF or marker in (0, 0xFF):  # fill bytes and junk are skipped one by one
            yield b""
            at += 1
            continue
        if marker == _END_OF_IMAGE:
            return
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in _FRAMES and at + 9 < len(data):
            layers, progressive = data[at + 9], progressive or marker == _PROGRESSIVE
        partial = progressive or data[at + 4] < layers
        if marker == _START_OF_SCAN and partial:
            yield PARTIAL_SCAN
            following = _NEXT_MARKER.search(data, at + 2 + length)
            if following is None:
                return
            at = following.start()
            continue
        yield data[at + 1 : at + 2]
        if marker == _START_OF_SCAN:
            return
        at += 2 if marker in _ALONE else 2 + max(2, length)


def _png(data: bytes) -> Iterator[bytes]:
    """Types of chunks."""
    at = 8
    while at + 8 <= len(data):
        yield data[at + 4 : at + 8]
        at += 12 + int.from_bytes(data[at : at + 4], "big")


def _gif(data: bytes) -> Iterator[bytes]:
    """Introducers, and the blocks of extensions (as empty), until the first frame."""
    colours = data[10] if len(data) > 10 else 0
    at = 13 + (3 * 2 ** (1 + (colours & 7)) if colours & 0x80 else 0)
    while at < len(data):
        kind = data[at : at + 1]
        yield kind
        if kind in (b",", b";"):
            return
        at += 1
        if kind == b"!":
            at += 1  # its label
            while at < len(data) and data[at]:
                yield b""
                at += 1 + data[at]
            at += 1


def _webp(data: bytes) -> Iterator[bytes]:
    """Types of chunks until the first that holds pixels."""
    at = 12
    while at + 8 <= len(data):
        kind = data[at : at + 4]
        yield kind
        if kind in (b"VP8 ", b"VP8L", b"ANMF"):
            return
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + length + length % 2


_WALKS: dict[str, Callable[[bytes], Iterator[bytes]]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "GIF": _gif,
    "WEBP": _webp,
}
