"""What a worker's child may take of the machine: it runs codecs on strangers' bytes, so it gets
what that needs and no more."""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from pathlib import Path

#: Bytes of memory a child may take beyond what it has when it is ready. Decoding takes 140 MB at
#: most (MAX_MEMORY in model/decode.py) and maps 280 MB (WebP, 25 Mpx); the rest is the picture's
#: file, thrice.
MEMORY_TO_WORK = 512_000_000
#: Bytes for each further picture in a batch: the largest file a message may hold.
MEMORY_PER_PICTURE = 64_000_000
#: How readily Linux kills a child when memory runs out, from -1000 to 1000 (proc(5)). A child is
#: replaced within a tenth of a second; its parent, the broker and the web should stay.
OOM_SCORE = 800


def limit_child(largest_batch: int, on_cpu: bool = True) -> None:
    """Let this process write no file and no core dump, and take little more memory than it has.

    Past its memory (RLIMIT_DATA, which counts what is private and writable, and not the gigabytes
    of libraries that torch maps) allocation fails: a picture is refused, or the child ends by an
    exception and is replaced.

    Args:
        largest_batch: pictures it will hold at a time, at most.
        on_cpu: whether it computes on the CPU. What a GPU's driver maps as it works is not known
            here, so there the memory is not limited.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    with suppress(OSError):  # not Linux, or somebody asked for more than our score
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))
    if not on_cpu:
        return
    with suppress(OSError):  # not Linux
        pages = int(Path("/proc/self/statm").read_text().split()[5])  # private and writable
        has = pages * os.sysconf("SC_PAGE_SIZE")
        wanted = has + MEMORY_TO_WORK + (largest_batch - 1) * MEMORY_PER_PICTURE
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
