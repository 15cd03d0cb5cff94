"""Broken and hostile pictures of every accepted format, made by a script: the same ones each time.

Every one must get an answer or a refusal (200, 415 or 422), cost little, and kill nothing. What
they attack: the codecs themselves (truncation, flipped bits), memory (bombs), time (loops over
segments, scans, run lengths) and whoever guesses a format by more than its first bytes.
"""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image
from skimage import data

#: Bytes of the largest upload by default: what one bomb may weigh.
LARGEST = 10_000_000
#: A side of the largest accepted square.
SIDE = 5000

CAT = Image.fromarray(data.chelsea())
SMALL = CAT.resize((120, 80))


def pictures() -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each, the same ones in the same order on every call."""
    whole = dict(_whole())
    for name, picture in whole.items():
        yield f"whole/{name}", picture
    yield from _truncated(whole)
    yield from _flipped(whole)
    for kind, make in (
        ("size", _sizes),
        ("png", _png_bombs),
        ("jpeg", _jpeg_bombs),
        ("gif", _gif_bombs),
        ("webp", _webp_bombs),
        ("bmp", _bmp_bombs),
        ("note", _notes),
        ("disguise", _disguises),
    ):
        for name, picture in make():
            yield f"{kind}/{name}", picture


def encoded(image: Image.Image, name: str, **options: object) -> bytes:
    """As Pillow writes it."""
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


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
        yield f"jpeg {what}", _resized_jpeg(encoded(SMALL, "JPEG"), width, height)
        screen = struct.pack("<6sHHBBB", b"GIF89a", width, height, 0x80, 0, 0) + bytes(6)
        yield f"gif {what}", screen + gif_frame(width, height)
        yield f"bmp {what}", bmp(width, height, 24, bytes(64))
        canvas = b"\0" * 4 + _24_bits(width - 1) + _24_bits(height - 1)
        yield f"webp {what}", riff(("VP8X", canvas), ("VP8L", b"\x2f" + bytes(9)))
    yield "png of the largest PNG knows", png(2**31 - 1, 2**31 - 1, 16, 6, b"")
    yield "bmp of negative width", bmp(-16, 16, 24, bytes(768))
    yield "bmp of the most negative height", bmp(16, -(2**31), 24, bytes(768))
    frame = gif_frame(65_535, 65_535)
    yield "gif whose frame exceeds its screen", b"GIF89a\1\0\1\0\x80\0\0" + bytes(6) + frame
    far = struct.pack("<BHHHHB", 0x2C, 60_000, 60_000, 1, 1, 0) + b"\2\1\x44\0;"
    yield "gif whose frame is far outside", b"GIF89a\1\0\1\0\x80\0\0" + bytes(6) + far


def _24_bits(number: int) -> bytes:
    return (number % 2**24).to_bytes(3, "little")


def _resized_jpeg(picture: bytes, width: int, height: int) -> bytes:
    frame = next(picture.index(m) for m in (b"\xff\xc0", b"\xff\xc2") if m in picture)
    return picture[: frame + 5] + struct.pack(">HH", height, width) + picture[frame + 9 :]


# --- bombs ------------------------------------------------------------------------------------


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


def _png_bombs() -> Iterator[tuple[str, bytes]]:
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


def jpeg_segment(marker: int, body: bytes) -> bytes:
    """One segment with its length."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def with_segments(picture: bytes, segments: bytes) -> bytes:
    """A JPEG with more segments right behind its first marker."""
    return picture[:2] + segments + picture[2:]


def _jpeg_bombs() -> Iterator[tuple[str, bytes]]:
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
    yield "25 Mpx of 12 scans and no data", _resized_jpeg(small, SIDE, SIDE)
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


def gif_frame(width: int, height: int, data: bytes = b"\2\1\x44\0") -> bytes:
    """A frame of this size and the end of the file; by default its data is one pixel."""
    return struct.pack("<BHHHHB", 0x2C, 0, 0, width, height, 0) + data + b";"


def _gif_bombs() -> Iterator[tuple[str, bytes]]:
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


def riff(*chunks: tuple[str, bytes]) -> bytes:
    """A WebP of these chunks."""
    body = b"".join(
        name.encode() + struct.pack("<I", len(part)) + part + bytes(len(part) % 2)
        for name, part in chunks
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def _webp_bombs() -> Iterator[tuple[str, bytes]]:
    for lossless in (False, True):
        what = "lossless" if lossless else "lossy"
        for mode in ("RGB", "RGBA"):
            image = Image.new(mode, (SIDE, SIDE))
            yield f"25 Mpx {what} {mode}", encoded(image, "WEBP", lossless=lossless, method=0)
    dots = [Image.new("RGB", (1, 1), colour) for colour in ("red", "lime", "blue")]
    tiny = encoded(dots[0], "WEBP", save_all=True, append_images=dots[1:], minimize_size=True)
    canvas = tiny[20:24] + _24_bits(SIDE - 1) + _24_bits(SIDE - 1)
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


def _bmp_bombs() -> Iterator[tuple[str, bytes]]:
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


# --- notes beside the pixels ------------------------------------------------------------------


def exif(entries: bytes, count: int) -> bytes:
    """A TIFF head and a first directory of this many entries."""
    return b"II*\0\x08\0\0\0" + struct.pack("<H", count) + entries


def _notes() -> Iterator[tuple[str, bytes]]:
    plain = encoded(SMALL, "JPEG")
    for orientation in range(10):
        note = Image.Exif()
        note[0x0112] = orientation
        for name in ("JPEG", "PNG", "WEBP"):
            yield f"{name} held {orientation}", encoded(SMALL, name, exif=note)
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
        canvas = b"\x08\0\0\0" + _24_bits(7) + _24_bits(7)
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
