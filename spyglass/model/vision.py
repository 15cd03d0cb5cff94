"""torchvision without torch's compiler: `from spyglass.model.vision import torchvision`.

Importing torchvision imports torch._dynamo, for one question that only its operators of detection
models ask (torchvision/ops/roi_align.py). That is half of the time until a worker is ready and
100 MB in each fork server, for nothing: nothing here is compiled by it. So the import finds a
small stand-in, which is gone afterwards: whoever wants the compiler later gets the real one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

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
