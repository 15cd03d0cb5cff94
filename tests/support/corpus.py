"""Broken and hostile pictures of every accepted format, made by a script: the same ones each time.

Every one must get an answer or a refusal (200, 415 or 422), cost little, and kill nothing. What
they attack: the codecs themselves (truncation, flipped bits), memory (bombs), time (loops over
segments, scans, run lengths) and whoever guesses a format by more than its first bytes.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

import bombs
import numpy as np
from forging import (
    SIDE,
    SMALL,
    bmp,
    encoded,
    exif,
    gif_frame,
    jpeg_segment,
    png,
    png_chunk,
    resized_jpeg,
    riff,
    three_bytes,
    with_segments,
)
from PIL import Image


def pictures() -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each, the same ones in the same order on every call."""
    whole = dict(_whole())
    for name, picture in whole.items():
        yield f"whole/{name}", picture
    yield from _truncated(whole)
    yield from _flipped(whole)
    for kind, make in (
        ("size", _sizes),
        ("png", bombs.png_bombs),
        ("jpeg", bombs.jpeg_bombs),
        ("gif", bombs.gif_bombs),
        ("webp", bombs.webp_bombs),
        ("bmp", bombs.bmp_bombs),
        ("note", _notes),
        ("disguise", _disguises),
    ):
        for name, picture in make():
            yield f"{kind}/{name}", picture


# --- pictures in good order, of every kind ----------------------------------------------------


def _whole() -> Iterator[tuple[str, bytes]]:
    """Small ones in every mode the formats know."""
    for mode in ("L", "RGB", "CMYK"):
        yield f"jpeg {mode}", encoded(SMALL.convert(mode), "JPEG")
        progressive = encoded(SMALL.convert(mode), "JPEG", progressive=True)
        yield f"progressive jpeg {mode}", progressive
    ink = encoded(SMALL.convert("CMYK"), "JPEG")
    at = ink.index(b"Adobe")
    yield "jpeg YCCK", ink[: at + 11] + b"\2" + ink[at + 12 :]
    yield "jpeg without Adobe's mark", ink.replace(b"Adobe", b"Other")
    for subsampling in (0, 1, 2):
        yield f"jpeg subsampling {subsampling}", encoded(SMALL, "JPEG", subsampling=subsampling)
    yield "jpeg quality 1", encoded(SMALL, "JPEG", quality=1)
    yield "jpeg with restarts", encoded(SMALL, "JPEG", restart_marker_blocks=1)
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        yield f"png {mode}", encoded(SMALL.convert(mode), "PNG")
    yield "png with a transparent colour", encoded(SMALL.convert("P"), "PNG", transparency=3)
    yield "png with transparent colours", encoded(SMALL.convert("P"), "PNG", transparency=b"\0\x80")
    deep = Image.fromarray(np.asarray(SMALL.convert("L")).astype(np.uint16) * 257)
    yield "png 16 bits", encoded(deep, "PNG")
    for colour, channels in ((2, 3), (4, 2), (6, 4)):
        yield (
            f"png 16 bits, colour type {colour}",
            png(40, 30, 16, colour, bytes(30 * 80 * channels)),
        )
    yield "png interlaced", png(1, 1, 8, 2, b"\7\7\7", interlaced=1)
    for method in (1, 2, 3, 4):
        rows = b"".join(bytes([method]) + bytes(range(120)) for _ in range(30))
        yield f"png filter {method}", png(40, 30, 8, 2, rows, filtered=True)
    yield "webp", encoded(SMALL, "WEBP")
    yield "webp lossless", encoded(SMALL, "WEBP", lossless=True)
    yield "webp with alpha", encoded(SMALL.convert("RGBA"), "WEBP", exact=True)
    turned = [SMALL.rotate(angle) for angle in (0, 90, 180)]
    for name in ("WEBP", "GIF", "PNG"):
        yield f"animated {name}", encoded(SMALL, name, save_all=True, append_images=turned)
    yield "gif", encoded(SMALL, "GIF")
    yield "gif interlaced", encoded(SMALL, "GIF", interlace=1)
    yield "gif with a transparent colour", encoded(SMALL.convert("P"), "GIF", transparency=0)
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        yield f"bmp {mode}", encoded(SMALL.convert(mode), "BMP")
    yield "bmp upside down", bmp(16, -16, 24, bytes(16 * 48))
    yield "bmp of OS/2", b"BM" + struct.pack("<IIIIHHHH", 0, 0, 26, 12, 4, 4, 1, 24) + bytes(48)
    masks = struct.pack("<III", 0xF800, 0x7E0, 0x1F)
    yield "bmp 16 bits", bmp(16, 16, 16, masks + bytes(512), compression=3, offset=66)
    palette = bytes(range(256)) * 4
    yield "bmp RLE8", bmp(16, 16, 8, palette + b"\x10\5\0\0" * 16 + b"\0\1", 1)
    yield "bmp RLE4", bmp(16, 16, 4, palette[:64] + b"\x10\x12\0\0" * 16 + b"\0\1", 2, colours=16)


# --- damage -----------------------------------------------------------------------------------
#: One of each codec's ways, to damage.
VICTIMS = (
    "jpeg RGB",
    "progressive jpeg RGB",
    "jpeg CMYK",
    "jpeg with restarts",
    "png RGBA",
    "png P",
    "webp",
    "webp lossless",
    "animated WEBP",
    "gif",
    "bmp RGB",
    "bmp RLE8",
)


def _truncated(whole: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    for victim in VICTIMS:
        picture = whole[victim]
        for share in (0.01, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95):
            yield f"truncated/{victim} at {share:.0%}", picture[: int(share * len(picture))]
        yield f"truncated/{victim} by a byte", picture[:-1]


def _flipped(whole: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    dice = random.Random(64)
    for victim in VICTIMS:
        picture = whole[victim]
        # The head holds sizes and tables; the rest is mostly compressed pixels.
        for part, end in (("head", min(64, len(picture))), ("tables", len(picture) // 3)):
            for n in range(4):
                yield f"flipped/{victim}, {part} {n}", _flip(dice, picture, end)
        for n in range(4):
            yield f"flipped/{victim}, anywhere {n}", _flip(dice, picture, len(picture), 20)


def _flip(dice: random.Random, picture: bytes, end: int, bits: int = 2) -> bytes:
    damaged = bytearray(picture)
    for _ in range(bits):
        damaged[dice.randrange(2, end)] ^= 1 << dice.randrange(8)
    return bytes(damaged)


# --- sizes ------------------------------------------------------------------------------------


def _sizes() -> Iterator[tuple[str, bytes]]:
    for width, height in (
        *((0, 0), (0, 9), (1, 1), (1, 100), (1, 101), (101, 1), (99, 1)),
        *((SIDE, SIDE), (SIDE, SIDE + 1), (12_000, 12_000), (65_535, 65_535), (65_535, 300)),
    ):
        what = f"announces {width} x {height}"
        yield f"png {what}", png(width, height, 8, 2, b"")
        yield f"jpeg {what}", resized_jpeg(encoded(SMALL, "JPEG"), width, height)
        screen = struct.pack("<6sHHBBB", b"GIF89a", width, height, 0x80, 0, 0) + bytes(6)
        yield f"gif {what}", screen + gif_frame(width, height)
        yield f"bmp {what}", bmp(width, height, 24, bytes(64))
        canvas = b"\0" * 4 + three_bytes(width - 1) + three_bytes(height - 1)
        yield f"webp {what}", riff(("VP8X", canvas), ("VP8L", b"\x2f" + bytes(9)))
    yield "png of the largest PNG knows", png(2**31 - 1, 2**31 - 1, 16, 6, b"")
    yield "bmp of negative width", bmp(-16, 16, 24, bytes(768))
    yield "bmp of the most negative height", bmp(16, -(2**31), 24, bytes(768))
    frame = gif_frame(65_535, 65_535)
    yield "gif whose frame exceeds its screen", b"GIF89a\1\0\1\0\x80\0\0" + bytes(6) + frame
    far = struct.pack("<BHHHHB", 0x2C, 60_000, 60_000, 1, 1, 0) + b"\2\1\x44\0;"
    yield "gif whose frame is far outside", b"GIF89a\1\0\1\0\x80\0\0" + bytes(6) + far


# --- notes beside the pixels ------------------------------------------------------------------


def _notes() -> Iterator[tuple[str, bytes]]:
    plain = encoded(SMALL, "JPEG")
    for orientation in range(10):
        held = Image.Exif()
        held[0x0112] = orientation
        for name in ("JPEG", "PNG", "WEBP"):
            yield f"{name} held {orientation}", encoded(SMALL, name, exif=held)
    hungry = b"".join(
        struct.pack("<HHII", tag, 1, 60_000, 0) for tag in range(0x8000, 0x8000 + 5000)
    )
    starving = b"".join(struct.pack("<HHII", tag, 1, 9_000_000, 0) for tag in range(0, 65_535))
    notes = {
        "5,000 tags of the same 60 KB": exif(hungry, 5000) + bytes(3000),
        "one of 65,535 entries, all missing": exif(b"", 65_535),
        "of no bytes": b"",
        "of another kind": b"nonsense",
        "with a directory behind the end": b"MM\0*\xff\xff\xff\xff",
        "with a directory of itself": exif(struct.pack("<HHII", 0x8769, 4, 1, 8), 1)
        + b"\x08\0\0\0",
        "with an orientation in words": exif(struct.pack("<HHII", 0x0112, 2, 9, 0), 1),
        "with a billion orientations": exif(struct.pack("<HHII", 0x0112, 3, 2**31, 0), 1),
        "with an unknown type": exif(struct.pack("<HHII", 0x0112, 99, 1, 6), 1),
    }
    for what, note in notes.items():
        yield f"JPEG {what}", with_segments(plain, jpeg_segment(0xE1, b"Exif\0\0" + note[:65_000]))
        yield f"PNG {what}", png(8, 8, 8, 2, bytes(192), png_chunk(b"eXIf", note))
        dot = encoded(Image.new("RGB", (8, 8)), "WEBP", lossless=True)[20:]
        canvas = b"\x08\0\0\0" + three_bytes(7) + three_bytes(7)
        yield f"WEBP {what}", riff(("VP8X", canvas), ("VP8L", dot), ("EXIF", note))
    note = exif(starving, 65_535) + bytes(8_300_000)
    yield "PNG with 65,535 tags of 9 MB", png(8, 8, 8, 2, bytes(192), png_chunk(b"eXIf", note))
    yield "WEBP with 65,535 tags of 9 MB", riff(("VP8X", canvas), ("VP8L", dot), ("EXIF", note))
    parts = b"".join(
        jpeg_segment(0xE1, b"Exif\0\0" + note[at : at + 65_500])
        for at in range(0, 9_000_000, 65_500)
    )
    yield "JPEG with 65,535 tags of 9 MB", plain[:2] + parts + plain[20:]
    for profile in (b"", b"\0", b"acsp" * 40, encoded(SMALL, "PNG")):
        for name in ("JPEG", "PNG", "WEBP"):
            what = f"{name} with a profile of {len(profile)} bytes"
            yield what, encoded(SMALL, name, icc_profile=profile)


# --- disguises --------------------------------------------------------------------------------


def _disguises() -> Iterator[tuple[str, bytes]]:
    plain = encoded(SMALL, "JPEG")
    script = b"<html><script>alert(1)</script>"
    yield "HTML in a comment", with_segments(plain, jpeg_segment(0xFE, script))
    yield "HTML in an EXIF note", encoded(SMALL, "JPEG", exif=b"Exif\0\0" + script)
    yield "an archive behind a GIF", encoded(SMALL, "GIF") + b"PK\3\4" + bytes(100)
    yield "a script that is a GIF", b"GIF89a/*" + script + b"*/"
    yield "PDF behind BMP's letters", b"BM%PDF-1.4" + bytes(40)
    yield "JPEG's start before a PNG", b"\xff\xd8\xff" + encoded(SMALL, "PNG")
    yield "PNG's start before a JPEG", b"\x89PNG\r\n\x1a\n" + plain
    yield "GIF's start before a WebP", b"GIF89a" + encoded(SMALL, "WEBP")
    yield "RIFF that is a sound", b"RIFF\x24\0\0\0WAVEfmt " + bytes(24)
    yield "WebP of another codec", b"RIFF\x24\0\0\0WEBPVP9 " + bytes(24)
    yield "BMP in a JPEG's thumbnail", encoded(SMALL, "JPEG", exif=b"Exif\0\0BM" + bytes(60))
    for name in ("TIFF", "PPM", "ICO", "TGA", "PCX", "SGI", "JPEG2000", "EPS", "PDF", "DIB"):
        yield f"a {name}", encoded(SMALL, name)
    for name, text in (
        ("SVG", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        ("SVG bomb", b"<!DOCTYPE a [<!ENTITY b 'c'>]><svg>&b;</svg>"),
        ("HEIC", b"\0\0\0\x18ftypheic" + bytes(40)),
        ("FITS", b"SIMPLE  =                    T" + bytes(2000)),
        ("PSD", b"8BPS\0\1" + bytes(40)),
        ("text", b"hello"),
        ("a byte", b"\xff"),
        ("zeros", bytes(100)),
    ):
        yield f"{name}", text
    for name, start in (("JPEG", plain[:3]), ("PNG", b"\x89PNG\r\n\x1a\n"), ("GIF", b"GIF89a")):
        yield f"{name}'s start and nothing", start
        yield f"{name}'s start and noise", start + random.Random(7).randbytes(5000)
