"""From the bytes of a picture to its pixels, with every limit checked before anything is decoded.

Codecs run on a stranger's bytes here, so this belongs in a worker's child process. Whatever the
bytes hold, `decode` raises `BadImage` and nothing else.
"""

import ctypes
import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageChops,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from spyglass import formats
from spyglass.model import file_structure
from spyglass.model.file_structure import PARTIAL_SCAN, RARE_FRAMES

# Imported by name, so that Image.open() finds these five without loading Pillow's other forty.
_PLUGINS = (BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, WebPImagePlugin)

#: Pixels of the largest accepted picture. 25 Mpx covers the usual cameras; as RGB they take 75 MB
#: (100 MB inside Pillow), which a child process can afford. A 17 KB PNG can announce 144 Mpx.
MAX_PIXELS = 25_000_000

#: Longer side over shorter side at most. Past 1:100 less than three of the 256 rows the network
#: sees would be real, and scaling so long a strip costs far more than its pixel count suggests.
MAX_ASPECT = 100

#: Bytes decoding may take at its peak. 25 Mpx of RGBA take Pillow 100 MB; what takes more for each
#: pixel (progressive JPEG with full colour, lossless WebP, long strips) may have fewer.
MAX_MEMORY = 140_000_000

#: Bytes beyond which freed memory is returned to the system at once. It takes 0.5 ms.
MUCH_MEMORY = 16_000_000

#: Passes over a pixel that the scans of a JPEG may add up to: 20 over a picture of 25 Mpx take
#: 0.2 s. Encoders write 10 (colour) to 18 (CMYK).
MAX_SCANNED = 20 * MAX_PIXELS

#: Scans of a JPEG however small, and of a run-length encoded BMP the bytes and pixels: Pillow
#: decodes those in Python, at some 0.1 µs each.
MAX_SCANS = 200
MAX_RUN_LENGTH = 1_000_000

#: Pixels that are brought to RGB and scaled down at a time: as RGBA they fit a core's cache.
BAND_PIXELS = 250_000

# Pillow's own limit, behind ours: WebP allocates its canvas when it is opened,
# and a GIF's later frame may be larger than the screen its header announces.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
warnings.simplefilter("error", Image.DecompressionBombWarning)

# Pillow warns about odd EXIF blocks; a sender must not be able to fill our log with that.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

#: EXIF tag for how the camera was held.
_ORIENTATION = 0x0112

Pixels = npt.NDArray[np.uint8]


class BadImage(Exception):
    """A picture that cannot be recognised, because of what it is.

    `code` is `unsupported` (not an accepted format), `too-many-pixels` or `bad-image`;
    `detail` is a sentence for the person who sent it.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        return self.detail


def decode(data: bytes, shorter_side: int) -> Pixels:
    """Decode to upright RGB, uint8, height x width x 3.

    A large picture comes back scaled down by a whole number, no side under `shorter_side` pixels.
    Animations give their first frame; transparency is laid on white, as a page would show it.
    One thread at a time, as Python's warning filters, changed here, belong to the whole process.
    """
    name, parts = _parts(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd EXIF, and torchvision's decoders being deprecated
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        image = _open(data, name)
        memory = 0
        try:
            with _refusing():
                memory = _check_cost(image, data, parts, shorter_side)
                return _upright(_decode(image, data, parts, shorter_side), _orientation(image))
        finally:
            # A failure's traceback may hold the picture for long: what it holds goes now.
            vars(image).clear()
            if memory > MUCH_MEMORY:
                _return_freed_memory()


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn whatever a codec raises, the bytes being a stranger's, into `BadImage`."""
    try:
        yield
    except BadImage:
        raise
    except MemoryError as error:  # this process may have only so much
        raise too_costly() from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_many_pixels() from error
    except Exception as error:
        raise BadImage(
            "bad-image",
            "The picture is damaged or incomplete. Open it in a picture viewer, save it again "
            "and send that.",
        ) from error


def _too_many_pixels() -> BadImage:
    return BadImage(
        "too-many-pixels",
        f"The picture has more than {MAX_PIXELS // 1_000_000} million pixels. Scale it down; "
        "500 pixels a side are plenty.",
    )


def too_costly() -> BadImage:
    return BadImage(
        "too-many-pixels",
        "The picture takes too much memory or time to decode. Scale it down, or save it as an "
        "ordinary (not progressive) JPEG.",
    )


def _parts(data: bytes) -> tuple[str, list[bytes]]:
    """Pillow's name of the format, and the parts of the file that a decoder walks through."""
    name = formats.sniff(data)
    if name is None:
        raise BadImage(
            "unsupported", f"Spyglass cannot read this picture. Send {formats.ACCEPTED}."
        )
    parts = file_structure.parts(name, data)
    if len(parts) > file_structure.MAX_PARTS:
        raise BadImage(
            "bad-image",
            "The picture's file is made of too many pieces. Open it in a picture viewer, save it "
            "again and send that.",
        )
    return name, parts


def _open(data: bytes, name: str) -> ImageFile.ImageFile:
    """Read the header and check it against the limits of size; no pixel is decoded."""
    with _refusing():
        image = Image.open(io.BytesIO(data), formats=(name,))
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _too_many_pixels()
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadImage(
            "bad-image",
            f"The picture is more than {MAX_ASPECT} times as long as it is wide. Crop it to what "
            "it shows.",
        )
    return image


def _check_cost(
    image: ImageFile.ImageFile, data: bytes, parts: list[bytes], shorter_side: int
) -> int:
    """Check what decoding will take, in memory and time, against the limits; bytes of memory."""
    pixels = image.width * image.height
    factor = _factor(image.size, shorter_side)
    memory = 3 * pixels // factor**2  # the answer
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        if not RARE_FRAMES.isdisjoint(parts):
            raise BadImage(
                "bad-image",
                "This kind of JPEG (arithmetic, lossless or hierarchical) is not read. Save it as "
                "an ordinary JPEG.",
            )
        scans = parts.count(PARTIAL_SCAN)
        if scans > MAX_SCANS or scans * pixels > MAX_SCANNED:
            raise too_costly()
        if scans:  # coefficients of 2 bytes, for each layer as it is sampled
            whole = max(across * down for _, down, across, _ in image.layer)
            sampled = sum(across * down for _, down, across, _ in image.layer)
            memory += 2 * pixels * sampled // whole
        if not _is_ordinary_jpeg(image, shorter_side):
            memory += 4 * pixels // min(8, 2 ** (factor.bit_length() - 1)) ** 2
    elif image.format == "WEBP":
        # As measured: lossless ones are held twice, of animations two screens besides.
        lossy = 3 if image.mode == "RGB" else 6
        memory += pixels * {b"VP8 ": lossy, b"VP8L": 8}.get(parts[-1], 20)
    else:
        memory += pixels * (1 if image.mode in ("1", "L", "P") else 4)
    if memory > MAX_MEMORY:
        raise too_costly()
    run_length = image.format == "BMP" and image.info["compression"] in (1, 2)  # RLE8, RLE4
    if run_length and max(pixels, len(data)) > MAX_RUN_LENGTH:
        raise too_costly()
    return memory


def _decode(
    image: ImageFile.ImageFile, data: bytes, parts: list[bytes], shorter_side: int
) -> Pixels:
    """Decode by the decoder that takes least time and memory for this picture."""
    if _is_ordinary_jpeg(image, shorter_side):
        return _decode_jpeg(data)
    if image.format == "WEBP" and parts[-1] != b"ANMF":
        return _decode_webp(data, shorter_side)
    return _decode_with_pillow(image, shorter_side)


def _return_freed_memory() -> None:
    """Return freed memory to the system: glibc would keep it, in pieces, for the next picture."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def _is_ordinary_jpeg(image: ImageFile.ImageFile, shorter_side: int) -> bool:
    """Whether torchvision decodes it faster: not CMYK, and too small for libjpeg to scale down."""
    return (
        isinstance(image, JpegImagePlugin.JpegImageFile)
        and image.mode in ("RGB", "L")
        and min(image.size) < 2 * shorter_side
    )


def _decode_jpeg(data: bytes) -> Pixels:
    """Decode by torchvision: a fifth less time than Pillow until the pixels are in an array."""
    # Imported late: the header is checked without torch, and most of Pillow's formats need none.
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    pixels: Pixels = decode_jpeg(buffer, ImageReadMode.RGB).permute(1, 2, 0).numpy()
    return pixels


def _decode_webp(data: bytes, shorter_side: int) -> Pixels:
    """Decode by torchvision: Pillow's decoder is made for animations, and takes 2 to 5 times the
    memory."""
    import torch
    from torchvision.io import ImageReadMode, decode_webp

    buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    pixels = decode_webp(buffer, ImageReadMode.UNCHANGED).permute(1, 2, 0).numpy()
    height, width, _ = pixels.shape
    return _in_bands(
        lambda top, end: Image.fromarray(pixels[top:end]), (width, height), shorter_side
    )


def _decode_with_pillow(image: Image.Image, shorter_side: int) -> Pixels:
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        image.draft(None, (shorter_side, shorter_side))  # libjpeg scales by 2, 4 or 8 for free
    image.load()
    return _in_bands(
        lambda top, end: image.crop((0, top, image.width, end)), image.size, shorter_side
    )


def _in_bands(
    band: Callable[[int, int], Image.Image], size: tuple[int, int], shorter_side: int
) -> Pixels:
    """Convert to RGB and scale down band by band, as a large picture must not be in memory twice.

    Args:
        band: gives the rows from one to before another as a picture of any mode.
        size: width and height of the whole.
        shorter_side: pixels to leave on the shorter side, at least.
    """
    width, height = size
    factor = _factor(size, shorter_side)
    rows = factor * max(1, BAND_PIXELS // (factor * width))
    pixels = np.empty((-(-height // factor), -(-width // factor), 3), np.uint8)
    for top in range(0, height, rows):
        scaled = _to_rgb(band(top, min(top + rows, height))).reduce(factor)
        pixels[top // factor :][: scaled.height] = np.asarray(scaled)
    return pixels


def _factor(size: tuple[int, int], shorter_side: int) -> int:
    """By how much to scale down a picture: 1 leaves it."""
    return max(1, min(size) // shorter_side)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert from whatever mode the file has."""
    if image.mode == "I;16":  # convert("RGB") would clip all above 255 to white
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "CMYK" and "adobe" not in image.info:
        image = ImageChops.invert(image)  # Pillow takes every CMYK JPEG for Adobe's, inverted
    if image.has_transparency_data:
        visible = image.convert("RGBA")
        image = Image.new("RGB", image.size, "white")
        image.paste(visible, mask=visible)
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """Return EXIF's orientation, 1 to 8; upright (1) where the EXIF block makes no sense."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken notes beside the pixels are no reason to refuse the picture
        return 1


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo the camera's rotation and mirroring, as EXIF 2.32 numbers them."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
