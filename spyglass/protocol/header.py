"""The header of a message: JSON of known fields, written tight and read with suspicion.

Reading checks one field at a time, and raises nothing but `ProtocolError`.
"""

from __future__ import annotations

import json
import re
from typing import Any, TypeAlias

#: Bytes of a JSON header. Every legal header fits four times over; more is an attack.
MAX_HEADER_BYTES = 4 * 1024
#: Characters of a sentence for people. In UTF-8 they are 2,000 bytes at most.
MAX_TEXT = 500

NAME = re.compile(r"[A-Za-z0-9._#-]{1,64}")
HEX = re.compile(r"[0-9a-f]{64}")

Header: TypeAlias = dict[str, Any]


class ProtocolError(ValueError):
    """A peer's bytes are not a legal message. The only error `decode` raises."""


# --- as a whole -------------------------------------------------------------------------------


def _refuse_constant(word: str) -> None:
    raise ProtocolError(f"{word} is not JSON")


#: Without \u escapes, which would make six bytes of a character of two, and twelve of an emoji's
#: four: what was short enough to come must be short enough to be passed on.
_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def dump(header: Header) -> bytes:
    """The bytes of a header."""
    return _ENCODER.encode(header).encode() if header else b"{}"


def load(header: bytes) -> Header:
    """The fields in the bytes of a header; those with no meaning here are kept."""
    if header == b"{}":
        return {}
    try:
        text = header.decode()
        # What `decode` calls, at half the time, if no white space surrounds the object.
        value, end = _DECODER.raw_decode(text) if text[:1] == "{" else (None, 0)
        if end != len(text):
            value = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"the header is not JSON: {type(error).__name__}") from None
    if type(value) is not dict:
        raise ProtocolError("the header must be a JSON object")
    return value


def sentence(text: str, limit: int = MAX_TEXT) -> str:
    """As much of a text we send as `text` below takes: printable, and not too long."""
    if len(text) <= limit and text.isprintable():
        return text
    return "".join([c if c.isprintable() else " " for c in text[:limit]])


# --- one checked field at a time --------------------------------------------------------------


def whole(header: Header, key: str, low: int, high: int, default: int | None = None) -> int:
    value = header.get(key, default)
    if type(value) is not int or not low <= value <= high:
        raise ProtocolError(f"{key} must be a whole number from {low} to {high}")
    return value


def number(header: Header, key: str, default: float | None = None) -> float:
    value = header.get(key, default)
    if type(value) not in (int, float) or not 0 <= value <= 1e9:  # type: ignore[operator]
        raise ProtocolError(f"{key} must be a number from 0 to 1e9")
    return float(value)  # type: ignore[arg-type]


def text(header: Header, key: str, limit: int = MAX_TEXT, default: str | None = "") -> str:
    value = header.get(key, default)
    # isprintable() also keeps out lone surrogates, which no encoder accepts later on.
    if type(value) is not str or len(value) > limit or not value.isprintable():
        raise ProtocolError(f"{key} must be printable text of at most {limit} characters")
    return value


def name(header: Header, key: str, optional: bool = False) -> str:
    value = header.get(key, "" if optional else None)
    if type(value) is not str or not (NAME.fullmatch(value) or (optional and not value)):
        raise ProtocolError(f"{key} must match {NAME.pattern}")
    return value


def digest(header: Header, key: str, optional: bool = False) -> str:
    value = header.get(key, "" if optional else None)
    if type(value) is not str or not (HEX.fullmatch(value) or (optional and not value)):
        raise ProtocolError(f"{key} must be 64 hexadecimal digits")
    return value


def flag(header: Header, key: str, default: bool = False) -> bool:
    value = header.get(key, default)
    if type(value) is not bool:
        raise ProtocolError(f"{key} must be true or false")
    return value
