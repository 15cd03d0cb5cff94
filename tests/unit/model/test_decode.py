"""Pictures become upright RGB pixels, or a refusal that explains what to do."""

import io
import os
import random
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import forging
import numpy as np
import pytest
from PIL import Image
from skimage import data

from spyglass import formats
from spyglass.model import decode
from spyglass.model.decode import BadImage
from spyglass.model.file_structure import MAX_PARTS
from testbed.processes import ROOT

#: What the default model asks for.
SIDE = 256

CAT = Image.fromarray(data.chelsea())


def encoded(image: Image.Image, name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces a size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    idat = chunk(b"IDAT", zlib.compress(b"\0"))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + idat + chunk(b"IEND", b"")


def refusal(data: bytes) -> BadImage:
    with pytest.raises(BadImage) as caught:
        decode.decode(data, SIDE)
    assert caught.value.detail == str(caught.value)
    assert caught.value.detail.endswith(".")
    return caught.value


def difference(pixels: decode.Pixels, image: Image.Image) -> float:
    """Mean absolute difference, in grey levels, after scaling both to 64 x 64."""
    small = [
        np.asarray(i.convert("RGB").resize((64, 64), Image.Resampling.BILINEAR), dtype=float)
        for i in (Image.fromarray(pixels), image)
    ]
    return float(np.abs(small[0] - small[1]).mean())


@pytest.mark.parametrize("name", formats.NAMES)
def test_every_accepted_format_decodes_to_rgb_rows_and_columns(name: str) -> None:
    pixels = decode.decode(encoded(CAT, name), SIDE)
    assert pixels.shape == (300, 451, 3)
    assert pixels.dtype == np.uint8
    assert difference(pixels, CAT) < 3


def test_width_and_height_come_out_as_the_header_says() -> None:
    height, width, _ = decode.decode(encoded(CAT, "PNG"), SIDE).shape
    assert (width, height) == (451, 300)


def test_a_picture_is_refused_by_its_header_without_torch() -> None:
    code = (
        "import sys; from spyglass.model import decode\n"
        "try: decode.decode(sys.stdin.buffer.read(), 256)\n"
        "except decode.BadImage as error: assert error.code == 'too-many-pixels'\n"
        "else: sys.exit('it was not refused')\n"
        "sys.exit('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    refusing = subprocess.run(command, cwd=ROOT, input=png_header(5000, 5001), timeout=60)
    assert refusing.returncode == 0


@pytest.mark.parametrize("data", [b"", b"text", b"\0" * 1000, encoded(CAT, "TIFF")])
def test_what_is_no_accepted_format_is_unsupported(data: bytes) -> None:
    error = refusal(data)
    assert error.code == "unsupported"
    assert formats.ACCEPTED in error.detail


def test_a_picture_of_just_25_million_pixels_passes_the_header_check() -> None:
    # Without its pixels it is damaged, but not too large.
    assert refusal(png_header(5000, 5000)).code == "bad-image"
    with decode._open(png_header(5000, 5000), "PNG") as image:
        assert image.size == (5000, 5000)


@pytest.mark.parametrize("size", [(5000, 5001), (12_000, 12_000), (30_000, 30_000)])
def test_more_pixels_are_refused_before_decoding(size: tuple[int, int]) -> None:
    # Pillow alone would only warn about the second.
    error = refusal(png_header(*size))
    assert error.code == "too-many-pixels"
    assert "25 million" in error.detail


def test_a_limit_holds_even_where_the_bomb_warning_is_silenced() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(BadImage) as caught:
            decode._open(png_header(5000, 5001), "PNG")
    assert caught.value.code == "too-many-pixels"


@pytest.mark.parametrize(("width", "height"), [(1000, 10), (10, 1000)])
def test_a_strip_of_just_1_to_100_is_decoded(width: int, height: int) -> None:
    strip = encoded(Image.new("RGB", (width, height)), "PNG")
    assert decode.decode(strip, SIDE).shape == (height, width, 3)


@pytest.mark.parametrize("size", [(1001, 10), (10, 1001)])
def test_a_longer_strip_is_refused(size: tuple[int, int]) -> None:
    error = refusal(encoded(Image.new("RGB", size), "PNG"))
    assert error.code == "bad-image"
    assert "Crop" in error.detail


def test_a_picture_of_one_pixel_is_decoded() -> None:
    for name in formats.NAMES:
        pixels = decode.decode(encoded(Image.new("RGB", (1, 1)), name), SIDE)
        assert pixels.shape == (1, 1, 3)


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_a_truncated_picture_is_bad(name: str, share: float) -> None:
    whole = encoded(CAT, name)
    error = refusal(whole[: int(share * len(whole))])
    assert error.code == "bad-image"
    assert "save it again" in error.detail


def test_truncated_jpegs_are_bad_with_every_decoder() -> None:
    for whole in (
        encoded(CAT, "JPEG"),
        encoded(CAT.convert("CMYK"), "JPEG"),
        encoded(CAT.resize((1200, 900)), "JPEG"),
    ):
        assert refusal(whole[:-200]).code == "bad-image"


def test_random_damage_gives_pixels_or_a_refusal_and_nothing_else() -> None:
    dice = random.Random(64)
    seeds = [encoded(CAT.resize((90, 60)), name) for name in formats.NAMES]
    seeds.append(encoded(CAT.resize((90, 60)), "JPEG", exif=_exif(6)))
    for round_number in range(300):
        damaged = bytearray(seeds[round_number % len(seeds)])
        for _ in range(4):
            damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
        try:
            assert decode.decode(bytes(damaged), SIDE).dtype == np.uint8
        except BadImage as error:
            assert error.code in ("bad-image", "too-many-pixels", "unsupported")


def chunked(count: int) -> bytes:
    """A PNG of so many parts."""
    whole = encoded(Image.new("L", (1, 1)), "PNG")
    return whole[:33] + (count - 3) * forging.png_chunk(b"prIv", b"") + whole[33:]


def scanned(count: int) -> bytes:
    """A progressive JPEG of so many scans."""
    image = encoded(CAT.resize((16, 16)), "JPEG", progressive=True)
    last = image.rindex(b"\xff\xda")
    return image[:last] + (count - image.count(b"\xff\xda") + 1) * image[last:-2] + image[-2:]


def run_lengths(height: int) -> bytes:
    """A BMP of RLE8, 1,000 pixels wide."""
    return forging.bmp(1000, height, 8, bytes(1024) + 4 * b"\0\2\0\xff", 1)


def lossless(height: int) -> bytes:
    """A WebP, 4,000 pixels wide."""
    image = Image.new("RGB", (4000, height))
    return encoded(image, "WEBP", lossless=True, quality=0, method=0)


@pytest.mark.parametrize(
    ("within", "beyond", "code"),
    [
        (chunked(MAX_PARTS), chunked(MAX_PARTS + 1), "bad-image"),
        (scanned(decode.MAX_SCANS), scanned(decode.MAX_SCANS + 1), "too-many-pixels"),
        (run_lengths(1000), run_lengths(1001), "too-many-pixels"),
        (lossless(4300), lossless(4400), "too-many-pixels"),
    ],
    ids=["parts", "scans", "run lengths", "memory"],
)
def test_what_takes_long_or_much_to_decode_is_refused(
    within: bytes, beyond: bytes, code: str
) -> None:
    assert decode.decode(within, SIDE).size
    assert refusal(beyond).code == code


@pytest.mark.parametrize("marker", [*range(0x01, 0xC0, 7), 0xD0, 0xF0])
def test_no_marker_between_scans_hides_those_that_follow(marker: int) -> None:
    many = scanned(decode.MAX_SCANS + 1)
    first = many.index(b"\xff\xda", many.index(b"\xff\xda") + 2)
    assert refusal(many[:first] + bytes([0xFF, marker]) + many[first:]).code == "too-many-pixels"


@pytest.mark.parametrize("frame", [0xC3, 0xC9, 0xCA])
def test_kinds_of_jpegs_that_hide_their_cost_are_refused(frame: int) -> None:
    progressive = encoded(CAT, "JPEG", progressive=True)
    error = refusal(progressive.replace(b"\xff\xc2", bytes([0xFF, frame])))
    assert error.code == "bad-image" and "ordinary" in error.detail


def test_a_film_behind_a_photo_counts_as_no_scans() -> None:
    film = 1000 * b"\xff\xda\0\x0c"  # phones append one
    assert difference(decode.decode(encoded(CAT, "JPEG") + film, SIDE), CAT) < 3
    progressive = encoded(CAT, "JPEG", progressive=True)
    assert difference(decode.decode(progressive + film, SIDE), CAT) < 3


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L"])
def test_a_large_picture_comes_out_the_same_in_one_piece_or_in_bands(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = encoded(CAT.resize((1151, 777)).convert(mode), "PNG")
    in_bands = decode.decode(large, SIDE)
    monkeypatch.setattr(decode, "BAND_PIXELS", 10**9)
    assert np.array_equal(in_bands, decode.decode(large, SIDE))


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


#: How a camera's sensor saw the upright scene, for each orientation it then writes down.
SEEN = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", SEEN)
@pytest.mark.parametrize(
    ("name", "scale"), [("JPEG", 1), ("JPEG", 3), ("PNG", 1), ("PNG", 3), ("WEBP", 1)]
)
def test_every_exif_orientation_is_turned_upright(orientation: int, name: str, scale: int) -> None:
    upright = CAT.resize((451 * scale, 300 * scale))
    turn = SEEN[orientation]
    seen = upright if turn is None else upright.transpose(turn)
    pixels = decode.decode(encoded(seen, name, exif=_exif(orientation)), SIDE)
    assert pixels.shape[1] > pixels.shape[0]
    assert difference(pixels, upright) < 3


@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif"])
def test_a_broken_exif_block_leaves_the_picture_upright(exif: bytes) -> None:
    assert difference(decode.decode(encoded(CAT, "JPEG", exif=exif), SIDE), CAT) < 3


def test_an_orientation_outside_1_to_8_leaves_the_picture_upright() -> None:
    pixels = decode.decode(encoded(CAT, "JPEG", exif=_exif(0)), SIDE)
    assert pixels.shape == (300, 451, 3)


def test_cmyk_jpegs_decode_to_the_right_colours_inverted_by_adobe_or_not() -> None:
    marked = encoded(CAT.convert("CMYK"), "JPEG", quality=95)  # inverted, as Photoshop writes it
    assert difference(decode.decode(marked, SIDE), CAT) < 3
    start = marked.index(b"\xff\xee")
    length = int.from_bytes(marked[start + 2 : start + 4], "big")
    assert marked[start + 4 :].startswith(b"Adobe")
    # The same ink without the mark counts the other way round.
    unmarked = marked[:start] + marked[start + 2 + length :]
    negative = Image.fromarray(255 - np.asarray(CAT.convert("CMYK")), "CMYK")
    assert difference(decode.decode(unmarked, SIDE), negative.convert("RGB")) < 3


@pytest.mark.parametrize("name", ["JPEG", "PNG"])
def test_greyscale_gives_three_equal_channels(name: str) -> None:
    pixels = decode.decode(encoded(CAT.convert("L"), name), SIDE)
    assert difference(pixels, CAT.convert("L")) < 3
    assert int(np.ptp(pixels, axis=2).max()) == 0


def test_16_bits_are_scaled_and_not_clipped() -> None:
    grey = CAT.convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    assert difference(decode.decode(encoded(deep, "PNG"), SIDE), grey) < 1


def test_black_and_white_and_palette_pictures_decode() -> None:
    for mode in ("1", "P"):
        image = CAT.convert(mode)
        assert difference(decode.decode(encoded(image, "PNG"), SIDE), image) < 1


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_on_white(mode: str) -> None:
    image = Image.new("RGBA", (40, 20), (200, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 20, 20))
    if mode == "P":
        image = image.quantize(4)
    pixels = decode.decode(encoded(image if mode == "P" else image.convert(mode), "PNG"), SIDE)
    assert pixels[10, 5].tolist() == [0, 0, 0]
    assert pixels[10, 35].tolist() == [255, 255, 255]


@pytest.mark.parametrize("name", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(name: str) -> None:
    frames = [Image.new("RGB", (32, 32), c) for c in ("white", "black")]
    animated = encoded(frames[0], name, save_all=True, append_images=frames[1:])
    assert decode.decode(animated, SIDE).min() == 255


def test_a_jpeg_of_several_pictures_gives_its_first_one() -> None:
    # Phones and stereo cameras write these; Pillow calls them MPO.
    several = encoded(CAT, "MPO", save_all=True, append_images=[Image.new("RGB", (9, 9))])
    assert difference(decode.decode(several, SIDE), CAT) < 3


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
def test_a_large_picture_comes_back_smaller_but_never_too_small(name: str) -> None:
    large = CAT.resize((2405, 1600))
    pixels = decode.decode(encoded(large, name), SIDE)
    assert SIDE <= min(pixels.shape[:2]) < 2 * SIDE
    assert difference(pixels, large) < 3


def test_a_jpeg_below_the_scaling_size_keeps_every_pixel() -> None:
    for width, height in ((700, 2 * SIDE - 1), (700, SIDE)):
        pixels = decode.decode(encoded(CAT.resize((width, height)), "JPEG"), SIDE)
        assert pixels.shape == (height, width, 3)


def test_both_jpeg_decoders_agree_to_the_grey_level() -> None:
    jpeg = encoded(CAT, "JPEG")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        ours = decode._decode_jpeg(jpeg).astype(int)
    assert np.abs(ours - np.asarray(Image.open(io.BytesIO(jpeg)))).max() <= 2


def test_decoding_warns_nobody() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode.decode(encoded(CAT, "JPEG"), SIDE)
        decode.decode(encoded(CAT.convert("P"), "PNG", transparency=b"\0" * 256), SIDE)


def test_decoding_writes_nothing_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for name in formats.NAMES:
        decode.decode(encoded(CAT, name), SIDE)
    assert os.listdir(tmp_path) == []
