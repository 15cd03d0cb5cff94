"""How a model wants its pictures: the steps from pixels to the network's input."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

#: Raise it whenever decoding or preprocessing changes: workers of one pool must answer alike.
RECIPE_VERSION = 1

#: Means of blue, green and red that the weights' authors subtract, on a scale of 0 to 255.
_CAFFE_MEAN = (104.006, 116.669, 122.679)

#: Pixels a side the authors resize to, and the centre of it their network sees.
_CAFFE_RESIZE = 256
_CAFFE_CROP = 227


@dataclass(frozen=True)
class Recipe:
    """How pixels become the network's input, and all that identifies it."""

    prepare: Callable[[torch.Tensor], torch.Tensor]  # uint8 RGB 3xHxW -> float32 3xSxS
    shorter_side: int  # pixels the decoder must leave on the shorter side
    description: str  # part of the digest


def official_recipe(transform: Any) -> Recipe:
    """As torchvision prepares pictures for weights of its own: by their transform."""
    return Recipe(transform, transform.resize_size[0], repr(transform))


def caffe_recipe() -> Recipe:
    """Squash to a square, take its centre, swap to BGR, subtract the means: as the authors did."""
    start = (_CAFFE_RESIZE - _CAFFE_CROP) // 2
    centre = slice(start, start + _CAFFE_CROP)
    mean = torch.tensor(_CAFFE_MEAN).view(3, 1, 1)

    def prepare(rgb: torch.Tensor) -> torch.Tensor:
        square = torch.nn.functional.interpolate(
            rgb[None], (_CAFFE_RESIZE, _CAFFE_RESIZE), mode="bilinear", antialias=True
        )[0]
        return square[:, centre, centre].flip(0).float() - mean

    description = f"squash {_CAFFE_RESIZE}, crop {_CAFFE_CROP}, BGR, minus {_CAFFE_MEAN}"
    return Recipe(prepare, _CAFFE_RESIZE, description)
