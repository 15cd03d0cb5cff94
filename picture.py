"""From the bytes of a picture to its pixels, with every limit checked before anything is decoded.

`check` reads the header alone and needs neither torch nor much time: the web may refuse a picture
by it. `decode` runs the codecs on a stranger's bytes and belongs into a worker's child process.
Both raise `BadImage` and nothing else for whatever the bytes hold.
"""

import io
import warnings
from collections.abc import Iterator
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

import formats

# Imported by name, so that Image.open() finds these five without loading Pillow's other forty.
_PLUGINS = (BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, WebPImagePlugin)

#: Pixels of the largest accepted picture. 25 Mpx covers the usual cameras; as RGB they take 75 MB
#: (100 MB inside Pillow), which a child process can afford. A 17 KB PNG can announce 144 Mpx.
MAX_PIXELS = 25_000_000

#: Longer side over shorter side at most. Past 1:100 less than three of the 256 rows the network
#: sees would be real, and scaling so long a strip costs far more than its pixel count suggests.
MAX_ASPECT = 100

# Pillow's own guard, as a second line behind ours: WebP allocates its canvas when it is opened,
# and a GIF's later frame may be larger than the screen its header announces.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
warnings.simplefilter("error", Image.DecompressionBombWarning)

# Pillow remarks on odd EXIF blocks; a sender must not be able to fill our log with them.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

#: EXIF tag that says how the camera was held.
_ORIENTATION = 0x0112

Pixels = npt.NDArray[np.uint8]


class BadImage(Exception):
    """A picture that gets no answer, through no fault of ours.

    `code` is `unsupported` (not an accepted format), `too-many-pixels` or `bad-image`;
    `detail` is a sentence for the person who sent it.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        return self.detail


def check(data: bytes) -> tuple[int, int]:
    """Check format, pixel count and aspect ratio by the header alone; return (width, height)."""
    with _open(data) as image:
        return image.size


def decode(data: bytes, shorter_side: int) -> Pixels:
    """Decode to upright RGB, uint8, height x width x 3.

    A large picture comes back scaled down by a whole number, no side under `shorter_side` pixels.
    Animations give their first frame; transparency is laid on white, as a page would show it.
    One thread at a time, as Python's warning filters, changed here, belong to the whole process.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd EXIF, and torchvision's decoder being deprecated
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with _open(data) as image, _refusing():
            if _is_ordinary_jpeg(image, shorter_side):
                pixels = _decode_jpeg(data)
            else:
                pixels = _decode_with_pillow(image, shorter_side)
            return _upright(pixels, _orientation(image))


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn whatever a codec raises, the bytes being a stranger's, into `BadImage`."""
    try:
        yield
    except (BadImage, MemoryError):
        raise  # out of memory says something about this machine, nothing about the picture
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_many_pixels() from error
    except Exception as error:
        raise BadImage(
            "bad-image",
            "The picture is damaged or incomplete. Open it in a picture viewer, save it anew "
            "and send that.",
        ) from error


def _too_many_pixels() -> BadImage:
    return BadImage(
        "too-many-pixels",
        f"The picture has more than {MAX_PIXELS // 1_000_000} million pixels. Scale it down; "
        "500 pixels a side are plenty.",
    )


def _open(data: bytes) -> ImageFile.ImageFile:
    """Read the header and hold it against every limit; no pixel is decoded."""
    name = formats.sniff(data)
    if name is None:
        raise BadImage(
            "unsupported", f"This is no picture Spyglass can read. Send {formats.ACCEPTED}."
        )
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


def _is_ordinary_jpeg(image: ImageFile.ImageFile, shorter_side: int) -> bool:
    """Whether torchvision decodes it faster: not CMYK, and too small for libjpeg to scale down."""
    return (
        isinstance(image, JpegImagePlugin.JpegImageFile)
        and image.mode in ("RGB", "L")
        and min(image.size) < 2 * shorter_side
    )


def _decode_jpeg(data: bytes) -> Pixels:
    """Decode by torchvision: a fifth less time than Pillow until the pixels are in an array."""
    # Imported late, so that `check` does not load torch.
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg  # type: ignore[import-untyped]

    buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    pixels: Pixels = decode_jpeg(buffer, ImageReadMode.RGB).permute(1, 2, 0).numpy()
    return pixels


def _decode_with_pillow(image: Image.Image, shorter_side: int) -> Pixels:
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        image.draft(None, (shorter_side, shorter_side))  # libjpeg scales by 2, 4 or 8 for free
    if image.mode == "I;16":  # convert("RGB") would clip all above 255 to white
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "CMYK" and "adobe" not in image.info:
        image = ImageChops.invert(image)  # Pillow takes every CMYK JPEG for Adobe's, inverted
    if image.has_transparency_data:
        visible = image.convert("RGBA")
        image = Image.new("RGB", image.size, "white")
        image.paste(visible, mask=visible)
    image = image.convert("RGB")
    if min(image.size) >= 2 * shorter_side:
        image = image.reduce(min(image.size) // shorter_side)
    return np.array(image)


def _orientation(image: Image.Image) -> int:
    """Return EXIF's orientation, 1 to 8; upright (1) where the EXIF block makes no sense."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a broken note beside the pixels is no reason to refuse them
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
