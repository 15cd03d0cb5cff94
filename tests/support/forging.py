"""Pictures put together byte by byte, sound or not: the parts of every accepted format."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image
from skimage import data

#: Bytes of the largest upload by default: what one bomb may weigh.
LARGEST = 10_000_000
#: A side of the largest accepted square.
SIDE = 5000

CAT = Image.fromarray(data.chelsea())
SMALL = CAT.resize((120, 80))


def encoded(image: Image.Image, name: str, **options: object) -> bytes:
    """As Pillow writes it."""
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """One chunk, its checksum right."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    width: int,
    height: int,
    bits: int,
    colour: int,
    pixels: bytes,
    *extra: bytes,
    interlaced: int = 0,
    filtered: bool = False,
) -> bytes:
    """A PNG of these pixels: whole rows, without (or with) their filter bytes."""
    if not filtered and pixels:
        step = len(pixels) // height
        pixels = b"".join(b"\0" + pixels[at : at + step] for at in range(0, len(pixels), step))
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    packed = png_chunk(b"IDAT", zlib.compress(pixels, 1))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (png_chunk(b"IHDR", head), *extra, packed, png_chunk(b"IEND", b""))
    )


def jpeg_segment(marker: int, body: bytes) -> bytes:
    """One segment with its length."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def with_segments(picture: bytes, segments: bytes) -> bytes:
    """A JPEG with more segments right behind its first marker."""
    return picture[:2] + segments + picture[2:]


def resized_jpeg(picture: bytes, width: int, height: int) -> bytes:
    """A JPEG whose head announces another size than its pixels have."""
    frame = next(picture.index(m) for m in (b"\xff\xc0", b"\xff\xc2") if m in picture)
    return picture[: frame + 5] + struct.pack(">HH", height, width) + picture[frame + 9 :]


def gif_frame(width: int, height: int, data: bytes = b"\2\1\x44\0") -> bytes:
    """A frame of this size and the end of the file; by default its data is one pixel."""
    return struct.pack("<BHHHHB", 0x2C, 0, 0, width, height, 0) + data + b";"


def riff(*chunks: tuple[str, bytes]) -> bytes:
    """A WebP of these chunks."""
    body = b"".join(
        name.encode() + struct.pack("<I", len(part)) + part + bytes(len(part) % 2)
        for name, part in chunks
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def three_bytes(number: int) -> bytes:
    """A number as WebP's canvas has it."""
    return (number % 2**24).to_bytes(3, "little")


def bmp(
    width: int,
    height: int,
    bits: int,
    body: bytes,
    compression: int = 0,
    colours: int = 0,
    offset: int = 0,
) -> bytes:
    """A BMP with Windows 3's head; `body` is palette and pixels."""
    signed = struct.pack("<ii" if -(2**31) <= width < 2**31 else "<II", width, height)
    head = struct.pack("<I", 40) + signed
    head += struct.pack("<HHIIiiII", 1, bits, compression, 0, 0, 0, colours, 0)
    if not offset:
        offset = 54 + (4 * (colours or 2**bits) if bits <= 8 else 0)
    return struct.pack("<2sIII", b"BM", 54 + len(body), 0, offset) + head + body


def exif(entries: bytes, count: int) -> bytes:
    """A TIFF head and a first directory of this many entries."""
    return b"II*\0\x08\0\0\0" + struct.pack("<H", count) + entries
