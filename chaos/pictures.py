"""Pictures whose answer is known, each different in its bytes.

A broker refuses a picture that has cost two workers or children, and knows it by its SHA-256.
Here no picture is to blame for what happens, so no two are the same: a number stands behind the
end of each JPEG, where no decoder looks.
"""

from __future__ import annotations

from pathlib import Path

#: What the shipped pictures show: the first label SqueezeNet gives them on a quiet machine.
SAMPLES = {
    "cat.jpg": "tiger cat",
    "coffee.jpg": "espresso",
    "rocket.jpg": "missile",
}


class Pictures:
    """An endless supply, in turn."""

    def __init__(self, folder: Path) -> None:
        self._samples = [((folder / name).read_bytes(), label) for name, label in SAMPLES.items()]

    def get(self, number: int) -> tuple[bytes, str]:
        """The picture of this number, and the label it deserves."""
        data, label = self._samples[number % len(self._samples)]
        return data + b"%016d" % number, label
