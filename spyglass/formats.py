"""The picture formats Spyglass accepts: one table for the web, the command line and the decoder.

Standard library only, so that the web and the command line can ask without loading Pillow.
"""

from dataclasses import dataclass

#: Bytes of a file's head that `sniff` looks at. The longest signature, BMP's, ends at byte 18.
SNIFF_BYTES = 18

#: Sizes in bytes a BMP's second header may announce: OS/2 1 and 2, Windows 3, 4, 5, and Adobe's
#: two between them. "BM" alone would also admit any text that starts with these letters.
_BMP_HEADER_SIZES = frozenset({12, 40, 52, 56, 64, 108, 124})


@dataclass(frozen=True)
class Format:
    """One accepted format: its name in Pillow, its name in prose, its MIME type, its suffixes."""

    name: str
    title: str
    mime_type: str
    extensions: tuple[str, ...]


#: Accepted formats, the commonest first. Pillow opens some forty more; among them are some that
#: start other programs (EPS) or have a long history of holes (TIFF, PSD, FITS).
FORMATS = (
    Format("JPEG", "JPEG", "image/jpeg", (".jpg", ".jpeg", ".jpe", ".jfif")),
    Format("PNG", "PNG", "image/png", (".png", ".apng")),
    Format("WEBP", "WebP", "image/webp", (".webp",)),
    Format("GIF", "GIF", "image/gif", (".gif",)),
    Format("BMP", "BMP", "image/bmp", (".bmp",)),
)

#: Pillow's names of the accepted formats, for `Image.open(formats=...)`.
NAMES = tuple(f.name for f in FORMATS)

#: Pillow's name -> the MIME type to send.
MIME_TYPES = {f.name: f.mime_type for f in FORMATS}

#: Lower-case file name suffixes with their dot, for a scan of a folder.
EXTENSIONS = frozenset(suffix for f in FORMATS for suffix in f.extensions)

#: The accepted formats as a sentence names them: "JPEG, PNG, WebP, GIF or BMP".
ACCEPTED = ", ".join(f.title for f in FORMATS[:-1]) + " or " + FORMATS[-1].title


def sniff(data: bytes | bytearray | memoryview) -> str | None:
    """Return Pillow's name of the accepted format `data` starts like, or None.

    Only the signature is read, never the name or the announced type: those are claims of the
    sender. A known signature is no promise that the rest can be decoded.
    """
    head = bytes(data[:SNIFF_BYTES])
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if head.startswith(b"RIFF") and head[8:16] in (b"WEBPVP8 ", b"WEBPVP8L", b"WEBPVP8X"):
        return "WEBP"
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BMP_HEADER_SIZES:
        return "BMP"
    return None
