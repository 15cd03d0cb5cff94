"""Hostile forms: each limit from both sides, and what the most expensive forms cost."""

from __future__ import annotations

import time
import tracemalloc

import pytest
from calling_web import form, jpeg
from yardstick import slowness

from spyglass.web.http.problems import Problem
from spyglass.web.http.uploads import MAX_PART_HEADER_BYTES, MAX_PARTS, from_form

KIND = "multipart/form-data; boundary=xx"
LIMIT = 10_000_000


def outcome(body: bytes, kind: str = KIND) -> int:
    """The status with which it is refused, or 200."""
    try:
        from_form(body, kind, LIMIT)
    except Problem as problem:
        assert problem.detail.endswith(".")
        return problem.kind.status
    return 200


def fields(number: int) -> bytes:
    """A form with this many parts before the picture's."""
    part = b'--xx\r\nContent-Disposition: form-data; name="a%d"\r\n\r\nb\r\n'
    return b"".join(part % n for n in range(number)) + form(jpeg())


def with_headers(size: int) -> bytes:
    """A form whose picture has this many bytes of headers."""
    head = b'Content-Disposition: form-data; name="image"\r\nX-Fill: '
    return b"--xx\r\n%b%b\r\n\r\n%b\r\n--xx--\r\n" % (head, b"a" * (size - len(head)), jpeg())


def test_the_number_of_a_forms_parts_is_bounded() -> None:
    assert outcome(fields(MAX_PARTS - 1)) == 200
    assert outcome(fields(MAX_PARTS)) == 400


def test_the_headers_of_a_part_are_bounded() -> None:
    assert outcome(with_headers(MAX_PART_HEADER_BYTES - 100)) == 200
    assert outcome(with_headers(MAX_PART_HEADER_BYTES + 100)) == 400


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "x" * 10_000,
        "multipart/form-data; boundary=\x00",
        "multipart/form-data; boundary=xx; charset=rot13",
    ],
)
def test_a_strange_boundary_is_refused_or_has_no_effect(kind: str) -> None:
    assert outcome(form(jpeg()), kind) in (200, 400)


BOMBS = {
    "line ends": b"\r\n" * (LIMIT // 2),
    "line feeds": b"\n" * LIMIT,
    "parts without end": b'--xx\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n' * 180_000,
    "boundaries alone": b"--xx\r\n" * (LIMIT // 6),
    "almost boundaries": b"--xx\r\nContent-Disposition: form-data; name=image\r\n\r\n"
    + b"\r\n--x" * (LIMIT // 5),
    "one endless header": b"--xx\r\n" + b"A" * LIMIT,
    "headers without end": b"--xx\r\n" + b"A: b\r\n" * (LIMIT // 6),
    "parameters without end": b"--xx\r\nContent-Disposition: form-data" + b"; a=b" * (LIMIT // 5),
    "quotes without end": b'--xx\r\nContent-Disposition: form-data; name="'
    + b'\\"' * 2000
    + b"\r\n\r\n",
    "a part that never ends": b"--xx\r\nContent-Disposition: form-data; name=image\r\n\r\n"
    + b"\0" * LIMIT,
}


@pytest.mark.parametrize("name", BOMBS)
def test_no_form_costs_much_time_or_memory(name: str) -> None:
    """Each has ten megabytes, the largest size read: it is refused soon and in little memory."""
    began = time.process_time()
    assert outcome(BOMBS[name]) in (400, 413, 415)
    took = time.process_time() - began
    tracemalloc.start()
    try:
        outcome(BOMBS[name])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    print(f"{name}: {1000 * took:.1f} ms of CPU, {peak / 1e6:.1f} MB")
    assert took < 0.2 * slowness()
    assert peak < 2 * LIMIT
