"""Weights made here, for models whose real ones would have to be downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torchvision
from PIL import Image

from testbed.processes import ROOT

#: The pictures such a model knows, and what it calls them: tabby and missile.
KNOWN = {"cat.jpg": 281, "rocket.jpg": 657}


def made_weights(model: str, file: Path, seed: int = 0) -> None:
    """Save a state dict of a model that knows two pictures and nothing else.

    Random but for the last layer, which distinguishes what the others make of the two.
    """
    torch.manual_seed(seed)
    network: Any = torchvision.models.get_model(model, weights=None).eval()
    transform = torchvision.models.get_model_weights(model).DEFAULT.transforms()
    last = [layer for layer in network.modules() if isinstance(layer, torch.nn.Linear)][-1]
    seen: list[torch.Tensor] = []
    hook = last.register_forward_pre_hook(lambda _, given: seen.append(given[0][0]))
    with torch.no_grad():
        for name in KNOWN:
            with Image.open(ROOT / "static" / "samples" / name) as picture:
                network(transform(picture.convert("RGB"))[None])
        hook.remove()
        middle, apart = (seen[0] + seen[1]) / 2, (seen[0] - seen[1]) / 2
        last.weight.zero_()
        last.bias.zero_()
        for index, sign in zip(KNOWN.values(), (1, -1), strict=True):
            last.weight[index] = 10 * sign * apart / apart.dot(apart)  # a logit of 10 for its own
            last.bias[index] = -last.weight[index].dot(middle)
    torch.save(network.state_dict(), file)
