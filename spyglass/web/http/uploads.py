"""The picture in an upload: raw body or multipart field, within limits, in memory only."""

from __future__ import annotations

import io
from dataclasses import dataclass

import multipart

from spyglass import formats
from spyglass.web.http import problems

#: Parts of a form: the picture, and some fields a client library may add.
MAX_PARTS = 16
#: Bytes of one part's headers.
MAX_PART_HEADER_BYTES = 4096
#: Bytes the form may add to the picture: boundaries, headers, small fields.
FORM_OVERHEAD = 64 * 1024
#: The form field (and TorchServe's names for it) that holds the picture.
FIELDS = ("image", "data", "body")


@dataclass(frozen=True, slots=True)
class Upload:
    """A picture's bytes, and its file name if a form has one."""

    picture: bytes
    name: str = ""


def is_form(content_type: str) -> bool:
    """Whether a body of this type is a form with parts."""
    return content_type[:32].lower().startswith("multipart/form-data")


def raw_picture(body: bytes, limit: int) -> Upload:
    """The picture in a body that holds nothing else.

    Raises:
        problems.Problem: empty, too large, or not an accepted format.
    """
    return _checked(Upload(body), limit)


def from_form(body: bytes, content_type: str, limit: int) -> Upload:
    """The one picture in a form.

    Raises:
        problems.Problem: none, several, too large, malformed, or not an accepted format.
    """
    _, options = multipart.parse_options_header(content_type)
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
    return _checked(Upload(found[0].raw, found[0].filename or "") if found else Upload(b""), limit)


def _checked(upload: Upload, limit: int) -> Upload:
    if len(upload.picture) > limit:
        raise problems.too_large(limit)
    if not upload.picture:
        raise problems.malformed(
            "The request holds no picture. Send its bytes as the body, or as form field `image`."
        )
    if formats.sniff(upload.picture) is None:
        raise problems.unsupported(
            f"Spyglass cannot read this file. Send a {formats.ACCEPTED} file."
        )
    return upload
