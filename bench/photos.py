"""Photos to measure with: those of a folder, or made to the usual size from scikit-image's."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path

#: Bytes of the usual photo: 500 x 375 pixels as cameras and the web save them.
USUAL_BYTES = 110_000
#: Photos that are timed. So many differ enough, and fit the cache no better than a stream would.
TIMED = 32

_LABELLED = re.compile(r"(\d{4})[-_.]")
_MADE_SIZE = (500, 375)
_PICTURES = ("astronaut", "chelsea", "coffee", "rocket", "immunohistochemistry", "retina")


@dataclass(frozen=True)
class Photo:
    """A JPEG, and the index of what it shows where that is known."""

    data: bytes
    label: int | None


def photos(folder: Path | None) -> list[Photo]:
    """All of a folder; without one, made ones.

    A name that begins with four digits names the label: 0281-tabby.jpg.

    Raises:
        ValueError: the folder holds no JPEG.
    """
    if folder is None:
        return [Photo(data, None) for data in _made()]
    found = sorted(folder.glob("*.jp*g"))
    if not found:
        raise ValueError(f"there is no .jpg or .jpeg in {folder}. Name a folder of photos.")
    labels = [_LABELLED.match(path.name) for path in found]
    return [
        Photo(path.read_bytes(), int(label[1]) if label else None)
        for path, label in zip(found, labels, strict=True)
    ]


def usual(all_of_them: list[Photo]) -> list[bytes]:
    """The photos nearest the usual size, to be timed."""
    by_size = sorted(all_of_them, key=lambda photo: abs(len(photo.data) - USUAL_BYTES))
    return [photo.data for photo in by_size[:TIMED]]


def _made() -> list[bytes]:
    from PIL import Image
    from skimage import data

    made = []
    for name in _PICTURES:
        whole = Image.fromarray(getattr(data, name)()).convert("RGB")
        for turn in range(4):  # another content to the codec, at the price of none
            image = whole.rotate(90 * turn, expand=True).resize(_MADE_SIZE)
            made.append(_of_usual_bytes(image))
    return made


def _of_usual_bytes(image: object) -> bytes:
    """The JPEG of the quality whose size comes nearest the usual one."""
    sizes = []
    for quality in range(70, 100):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)  # type: ignore[attr-defined]
        sizes.append(file.getvalue())
    return min(sizes, key=lambda data: abs(len(data) - USUAL_BYTES))
