"""What computes: torchvision without torch's compiler, and oneDNN's fused kernels on the CPU.

Take torchvision from here: `from spyglass.model.runtimes import torchvision`. Importing it imports
torch._dynamo, for one question that only its operators of detection models ask
(torchvision/ops/roi_align.py). That is half of the time until a worker is ready and 100 MB in each
fork server, unneeded here: nothing is compiled by it. So the import finds a small stand-in,
which is gone afterwards: whoever wants the compiler later gets the real one.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

import torch

#: The first Python for which torch.jit warns that it may break.
WITHOUT_JIT = (3, 14)

#: Largest difference of a logit, relative to the largest logit, that still is rounding.
_FUSION_TOLERANCE = 1e-5

_COMPILER = "torch._dynamo"


@contextmanager
def _stand_in() -> Iterator[None]:
    """Let `from torch._dynamo.utils import is_compile_supported` succeed without the compiler."""
    if _COMPILER in sys.modules:
        yield
        return
    modules = {name: ModuleType(name) for name in (_COMPILER, f"{_COMPILER}.utils")}
    vars(modules[f"{_COMPILER}.utils"])["is_compile_supported"] = lambda device: False
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]


def _import() -> ModuleType:
    try:
        with _stand_in():
            import torchvision
    except (ImportError, AttributeError):
        # Another release may ask the compiler for more: then it is loaded after all.
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        import torchvision
    module: ModuleType = torchvision
    return module


torchvision = _import()


def fuse(network: torch.nn.Module, shape: Sequence[int]) -> tuple[torch.nn.Module, str]:
    """Compile for one input of `shape`: oneDNN's fused kernels take a third less time than eager.

    Returns the network unchanged, and why, where that does not work or changes its answers.
    """
    if sys.version_info >= WITHOUT_JIT:
        return network, "torch.jit does not support Python 3.14 or later"
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
            return network, f"{error}" or type(error).__name__
    if not (answer - expected).abs().max() <= _FUSION_TOLERANCE * expected.abs().max():
        return network, "fusing would change its answers"
    return fused, ""
