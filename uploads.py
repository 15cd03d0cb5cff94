"""The picture in an HTTP request: raw body or multipart field, within limits, in memory only."""

from __future__ import annotations

import io
from typing import Any

import multipart

import formats
import problems

#: Parts of a form: the picture, and some fields a client library may add.
MAX_PARTS = 16
#: Bytes of one part's headers.
MAX_PART_HEADER_BYTES = 4096
#: Bytes the form may add to the picture: boundaries, headers, small fields.
FORM_OVERHEAD = 64 * 1024
#: The form field (and TorchServe's name for it) that holds the picture.
FIELDS = ("image", "data")


def read_picture(environ: dict[str, Any], limit: int) -> tuple[bytes, str]:
    """The picture's bytes and its file name, if the form tells one.

    Args:
        environ: the WSGI request.
        limit: bytes of the largest picture.

    Raises:
        problems.Problem: empty, too large, malformed, or not an accepted format.
    """
    kind, options = multipart.parse_options_header(environ.get("CONTENT_TYPE", ""))
    if kind == "multipart/form-data":
        picture, name = _from_form(environ, options, limit)
    else:
        picture, name = _read(environ, limit), ""
    if len(picture) > limit:
        raise problems.too_large(limit)
    if not picture:
        raise problems.malformed(
            "The request holds no picture. Send its bytes as the body, or as form field `image`."
        )
    if formats.sniff(picture) is None:
        raise problems.unsupported(
            f"This is not a picture Spyglass reads. Send a {formats.ACCEPTED} file."
        )
    return picture, name


def _read(environ: dict[str, Any], limit: int) -> bytes:
    """The whole body, refused by its announced length before it is read where that is known."""
    announced = environ.get("CONTENT_LENGTH") or "0"
    if not announced.isascii() or not announced.isdigit():
        raise problems.malformed("Content-Length is not a number.")
    if int(announced) > limit:
        raise problems.too_large(limit)
    body: bytes = environ["wsgi.input"].read(limit + 1)
    if len(body) > limit:
        raise problems.too_large(limit)
    return body


def _from_form(environ: dict[str, Any], options: dict[str, str], limit: int) -> tuple[bytes, str]:
    body = _read(environ, limit + FORM_OVERHEAD)
    try:
        parser = multipart.MultipartParser(
            io.BytesIO(body),
            options.get("boundary", ""),
            content_length=len(body),
            part_limit=MAX_PARTS,
            headersize_limit=MAX_PART_HEADER_BYTES,
            spool_limit=len(body) + 1,
            memory_limit=len(body) + 1,
            disk_limit=0,
        )
        found = [part for part in parser if part.name in FIELDS]
    except (multipart.MultipartError, ValueError) as error:
        raise problems.malformed(
            f"The form cannot be read ({error}). Send the file again."
        ) from None
    if len(found) > 1:
        raise problems.malformed("The form holds more than one picture. Send one at a time.")
    if not found:
        return b"", ""
    return found[0].raw, found[0].filename or ""
