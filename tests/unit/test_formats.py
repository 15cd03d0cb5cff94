"""The accepted formats are told by their first bytes, and by nothing else."""

import io

import pytest
from PIL import Image

from spyglass import formats


def encoded(name: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "teal").save(buffer, name)
    return buffer.getvalue()


@pytest.mark.parametrize("name", formats.NAMES)
def test_every_accepted_format_is_recognized_by_its_first_bytes(name: str) -> None:
    data = encoded(name)
    assert formats.sniff(data) == name
    assert formats.sniff(data[: formats.SNIFF_BYTES]) == name


@pytest.mark.parametrize("name", formats.NAMES)
def test_a_signature_cut_short_is_not_recognized(name: str) -> None:
    assert formats.sniff(encoded(name)[:2]) is None


@pytest.mark.parametrize("name", ["TIFF", "EPS", "ICO", "PPM", "TGA", "PCX", "JPEG2000", "AVIF"])
def test_what_else_pillow_can_write_is_not_accepted(name: str) -> None:
    assert formats.sniff(encoded(name)) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 64,
        b"just text, no picture",
        b"BMW builds cars, and this is no bitmap",
        b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        b"<!DOCTYPE html><title>GIF89a</title>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"8BPS\0\1\0\0\0\0\0\0\0\3",
        b"SIMPLE  =                    T",
        b"\0\0\0\x18ftypheic\0\0\0\0",
        b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0",
        b"RIFF\x24\0\0\0WEBPtext\x10\0\0\0",
    ],
)
def test_other_bytes_are_not_taken_for_a_picture(data: bytes) -> None:
    assert formats.sniff(data) is None


def test_a_picture_is_recognized_in_any_kind_of_buffer() -> None:
    data = encoded("PNG")
    assert formats.sniff(bytearray(data)) == formats.sniff(memoryview(data)) == "PNG"


def test_mime_types_and_suffixes_are_those_pillow_knows() -> None:
    Image.init()
    for accepted in formats.FORMATS:
        assert Image.MIME[accepted.name] == accepted.mime_type
        assert {Image.registered_extensions()[s] for s in accepted.extensions} == {accepted.name}


def test_the_sentence_names_every_accepted_format() -> None:
    assert formats.ACCEPTED == "JPEG, PNG, WebP, GIF or BMP"
