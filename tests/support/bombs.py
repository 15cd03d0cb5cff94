"""Pictures that attack whoever reads them: bombs, and heads that lie, of every accepted format."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from forging import (
    LARGEST,
    SIDE,
    SMALL,
    bmp,
    encoded,
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


def png_bombs() -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each."""
    bomb = zlib.compress(bytes(100_000_000), 9)  # 97 KB
    for name, chunk in (
        ("zTXt bomb", png_chunk(b"zTXt", b"Title\0\0" + bomb)),
        ("iTXt bomb", png_chunk(b"iTXt", b"Title\0\1\0\0\0" + bomb)),
        ("iCCP bomb", png_chunk(b"iCCP", b"icc\0\0" + bomb)),
        ("a hundred zTXt bombs", 100 * png_chunk(b"zTXt", b"Title\0\0" + bomb)),
        ("800,000 empty chunks", 800_000 * png_chunk(b"prIv", b"")),
        ("300,000 texts", 300_000 * png_chunk(b"tEXt", b"a\0b")),
        ("80,000 palettes", 80_000 * png_chunk(b"PLTE", bytes(96))),
        ("animation of a billion frames", png_chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))),
        ("chunk of a false checksum", png_chunk(b"tEXt", b"a\0b")[:-1] + b"!"),
        ("chunk of 4 GB", struct.pack(">I4s", 2**32 - 1, b"tEXt")),
        ("chunk without a name", png_chunk(b"\0\0\0\0", b"")),
        ("truncated profile", png_chunk(b"iCCP", b"icc\0\0" + bomb[:60])),
    ):
        yield name, png(8, 8, 8, 2, bytes(192), chunk)
    yield "pixels that go on for 100 MB", png(8, 8, 8, 2, bytes(100_000_000), filtered=True)
    yield "no pixels", png(8, 8, 8, 2, b"")
    yield "two heads", png(8, 8, 8, 2, bytes(192), png_chunk(b"IHDR", bytes(13)))
    for bits, colour, channels in (
        (1, 0, 1),
        (8, 0, 1),
        (8, 3, 1),
        (8, 2, 3),
        (8, 6, 4),
        (16, 0, 2),
    ):
        row = 1 + (SIDE * channels * bits + 7) // 8 if bits < 16 else 1 + SIDE * channels
        extra = [png_chunk(b"PLTE", bytes(768)), png_chunk(b"tRNS", b"\0")] if colour == 3 else []
        what = f"25 Mpx of nothing, {bits} bits, colour type {colour}"
        yield what, png(SIDE, SIDE, bits, colour, bytes(row * SIDE), *extra, filtered=True)
    yield (
        "25 Mpx, 16 bits RGBA",
        png(SIDE, SIDE, 16, 6, bytes(SIDE * (1 + 8 * SIDE)), filtered=True),
    )
    passes = bytes(4 * SIDE * SIDE + 3 * SIDE)
    yield "25 Mpx interlaced", png(SIDE, SIDE, 8, 6, passes, interlaced=1, filtered=True)


def jpeg_bombs() -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each."""
    plain = encoded(SMALL, "JPEG")
    for name, segments in (
        ("2 million empty comments", 2_400_000 * jpeg_segment(0xFE, b"")),
        ("2 million empty APP13", 2_400_000 * jpeg_segment(0xED, b"")),
        ("150 full APP1", 150 * jpeg_segment(0xE1, bytes(65_533))),
        ("150 full profiles", 150 * jpeg_segment(0xE2, b"ICC_PROFILE\0\1\x96" + bytes(65_519))),
        ("10 MB of fill bytes", b"\xff" * 9_900_000),
        ("10 MB of quantization", 144_000 * jpeg_segment(0xDB, b"\0" + b"\1" * 64)),
        ("Photoshop block of itself", jpeg_segment(0xED, b"Photoshop 3.0\0" + b"8BIM" * 16_000)),
        ("segment of length 0", b"\xff\xfe\0\0"),
        ("segment of length 1", b"\xff\xfe\0\1"),
        ("segment past the end", b"\xff\xe5\xff\xff"),
    ):
        yield name, with_segments(plain, segments)
    for mode, sampling in (("RGB", 2), ("RGB", 0), ("CMYK", 0)):
        flat = Image.new(mode, (SIDE, SIDE))
        yield f"25 Mpx {mode} {sampling}", encoded(flat, "JPEG", subsampling=sampling)
        progressive = encoded(flat, "JPEG", subsampling=sampling, progressive=True)
        yield f"25 Mpx progressive {mode} {sampling}", progressive
        scan = progressive.rindex(b"\xff\xda")
        many = progressive[:scan] + 100 * progressive[scan:-2] + progressive[-2:]
        yield f"25 Mpx progressive {mode} {sampling}, 100 scans", many[:LARGEST]
        arithmetic = many.replace(b"\xff\xc2", b"\xff\xca")
        yield f"25 Mpx arithmetic {mode} {sampling}, 100 scans", arithmetic[:LARGEST]
    small = encoded(Image.new("RGB", (500, 500)), "JPEG", progressive=True)
    scan = small.rindex(b"\xff\xda")
    many = small[:scan] + 2000 * small[scan:-2] + small[-2:]
    yield "2,000 scans", many
    yield "25 Mpx of 12 scans and no data", resized_jpeg(small, SIDE, SIDE)
    strip = encoded(Image.new("RGB", (500, 50_000)), "JPEG")
    yield "25 Mpx strip", strip
    yield "25 Mpx lying strip", encoded(Image.new("RGB", (50_000, 500)), "JPEG")
    yield (
        "25 Mpx progressive strip",
        encoded(Image.new("RGB", (500, 50_000)), "JPEG", progressive=True, subsampling=0),
    )
    for sof in (0xC1, 0xC3, 0xC5, 0xC9, 0xCA, 0xCB, 0xCF):
        yield f"frame of kind {sof:X}", plain.replace(b"\xff\xc0", bytes([0xFF, sof]))
    frame = plain.index(b"\xff\xc0")
    for name, at, value in (
        ("12 bits", 4, 12),
        ("0 layers", 9, 0),
        ("2 layers", 9, 2),
        ("255 layers", 9, 255),
        ("sampling 0", 11, 0),
        ("sampling 4 x 4", 11, 0x44),
        ("sampling 15 x 15", 11, 0xFF),
        ("table 9", 12, 9),
    ):
        yield name, plain[: frame + at] + bytes([value]) + plain[frame + at + 1 :]
    yield "two frames", plain[:frame] + plain[frame : frame + 19] + plain[frame:]
    yield "no tables", plain.replace(b"\xff\xc4", b"\xff\xfe")
    yield "nothing but an end", b"\xff\xd8\xff\xd9"
    yield "10 MB of zeros behind its end", plain + bytes(9_900_000)


def gif_bombs() -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each."""
    screen = b"GIF89a\x08\0\x08\0\x80\0\0" + bytes(6)
    frame = gif_frame(8, 8)
    yield (
        "40,000 comment blocks",
        screen + b"!\xfe" + 39_000 * (b"\xff" + bytes(255)) + b"\0" + frame,
    )
    yield "5 million comment blocks", screen + b"!\xfe" + 4_900_000 * b"\1a" + b"\0" + frame
    yield "2 million empty extensions", screen + 2_400_000 * b"!\xf9\0" + frame
    yield "5 million blocks in an extension", screen + b"!\xff" + 4_900_000 * b"\1a" + b"\0" + frame
    yield "10 MB of zeros", screen + bytes(9_900_000)
    flat = encoded(Image.new("P", (SIDE, SIDE)), "GIF")
    yield "25 Mpx", flat
    yield "25 Mpx interlaced", encoded(Image.new("P", (SIDE, SIDE)), "GIF", interlace=1)
    head = b"GIF89a" + struct.pack("<HHBBB", SIDE, SIDE, 0x80, 0, 0) + bytes(6)
    control = b"!\xf9\4\1\0\0\0\0"
    yield "25 Mpx transparent with one pixel", head + control + gif_frame(1, 1)
    many = 200_000 * gif_frame(8, 8)[:-1]
    yield "200,000 frames", screen + many + b";"
    for size in (0, 1, 9, 12, 13, 255):
        yield f"code size {size}", screen + gif_frame(8, 8, bytes([size]) + b"\2\x44\1\0")
    yield "blocks without an end", screen + gif_frame(8, 8, b"\2" + b"\xff" * 9_000_000)
    yield "no frame", screen + b";"


def webp_bombs() -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each."""
    for lossless in (False, True):
        what = "lossless" if lossless else "lossy"
        for mode in ("RGB", "RGBA"):
            image = Image.new(mode, (SIDE, SIDE))
            yield f"25 Mpx {what} {mode}", encoded(image, "WEBP", lossless=lossless, method=0)
    dots = [Image.new("RGB", (1, 1), colour) for colour in ("red", "lime", "blue")]
    tiny = encoded(dots[0], "WEBP", save_all=True, append_images=dots[1:], minimize_size=True)
    canvas = tiny[20:24] + three_bytes(SIDE - 1) + three_bytes(SIDE - 1)
    yield "animation of three dots on 25 Mpx", tiny[:20] + canvas + tiny[30:]
    frame = tiny[tiny.index(b"ANMF") :]
    frame = frame[: 8 + struct.unpack("<I", frame[4:8])[0]]
    head = ("VP8X", canvas), ("ANIM", bytes(6))
    body = riff(*head)[12:] + (LARGEST // len(frame) - 2) * frame
    yield "10 MB of frames on 25 Mpx", b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body
    dot = encoded(dots[0], "WEBP", lossless=True)[20:]
    extended = ("VP8X", bytes([0x2C]) + bytes(9))
    for name, chunks in (
        ("1 million unknown chunks", [("VP8L", dot)] + 1_000_000 * [("abcd", b"")]),
        ("profile of 9 MB", [("ICCP", bytes(9_000_000)), ("VP8L", dot)]),
        ("alpha that is none", [("ALPH", b"\xff" * 40), ("VP8L", dot)]),
        ("no picture", [("EXIF", b"abc")]),
        ("two pictures", [("VP8L", dot), ("VP8L", dot)]),
    ):
        yield name, riff(extended, *chunks)
    yield "length of 4 GB", b"RIFF\xff\xff\xff\xffWEBP" + riff(("VP8L", dot))[12:]
    yield "chunk of 4 GB", b"RIFF\x40\0\0\0WEBPVP8L\xff\xff\xff\xff" + dot
    yield "length of 0", b"RIFF\0\0\0\0WEBP" + riff(("VP8L", dot))[12:]


def bmp_bombs() -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each."""
    palette = bytes(range(256)) * 4
    rows = SIDE * b"\1\5\0\0" + b"\0\1"
    yield "25 Mpx RLE8 of short rows", bmp(SIDE, SIDE, 8, palette + rows, 1)
    yield "25 Mpx RLE8 of one jump", bmp(SIDE, SIDE, 8, palette + b"\0\2\xff\xff" * 30, 1)
    yield "25 Mpx RLE8 of nothing", bmp(SIDE, SIDE, 8, palette + b"\0\1", 1)
    yield "25 Mpx RLE4 of runs", bmp(SIDE, SIDE, 4, palette[:64] + b"\xff\x12" * 98_040, 2)
    ends = 4_900_000 * b"\0\0"
    yield "5 million ends of line", bmp(SIDE, SIDE, 8, palette + b"\1\5" + ends, 1)
    yield "5 million empty jumps", bmp(900, 900, 8, palette + 2_400_000 * b"\0\2\0\0", 1)
    yield "5 million runs past the row", bmp(900, 900, 8, palette + 4_900_000 * b"\xff\5", 1)
    yield "RLE8 that ends in an escape", bmp(16, 16, 8, palette + b"\0\2\1", 1)
    yield "RLE8 past the end", bmp(16, 16, 8, palette + b"\0\xff" + bytes(9), 1)
    yield "RLE8 of 24 bits", bmp(16, 16, 24, bytes(768), 1)
    yield "RLE4 of 8 bits", bmp(16, 16, 8, palette + b"\x10\x12" * 16, 2)
    for colours in (1, 3, 257, 65_536, 65_537, 2**32 - 1):
        yield (
            f"{colours} colours",
            bmp(16, 16, 8, palette + bytes(256), colours=colours, offset=1078),
        )
    for offset in (1, 54, 10_000, 2**32 - 1):
        yield f"pixels at {offset}", bmp(16, 16, 24, bytes(768), offset=offset)
    for bits in (0, 2, 7, 15, 48, 65_535):
        yield f"{bits} bits", bmp(16, 16, bits, palette + bytes(768), offset=1078)
    for compression in (4, 5, 6, 11, 255):
        yield f"compression {compression}", bmp(16, 16, 24, bytes(768), compression)
    for mask in (0, 1, 2**32 - 1):
        masks = struct.pack("<III", mask, mask, mask)
        yield f"masks {mask:X}", bmp(16, 16, 32, masks + bytes(1024), 3, offset=66)
    yield "25 Mpx of 1 bit", bmp(SIDE, SIDE, 1, palette[:8] + bytes(628 * SIDE))
