"""The memory of this process: how much it holds, and what only its start needed, given back."""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

#: What begins a mapping in proc_pid_smaps(5): from, to, permissions, offset, device, inode.
_MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ (\d+)", re.MULTILINE)
#: Pages that are no longer as in the file: in memory, and swapped out.
_CHANGED = re.compile(r"^(?:Anonymous|Swap): +(\d+) kB", re.MULTILINE)


def rss(process: int | str = "self") -> int:
    """Bytes of memory a process has (proc_pid_statm(5)).

    Raises:
        OSError: there is no such process, or this is not Linux.
    """
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def held() -> int:
    """Bytes of memory this process has, 0 where that is not told as Linux does."""
    with suppress(OSError):
        return rss()
    return 0


class _Malloc(ctypes.Structure):
    """What mallinfo2(3) tells."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def allocated() -> int:
    """Bytes that are allocated, without those that are free again and not given back; all that is
    held where the C library is not glibc."""
    mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo is None:
        return held()
    mallinfo.restype = _Malloc
    told = mallinfo()
    return int(told.uordblks + told.hblkhd)


def settle() -> None:
    """Keep what this process goes on needing, and make it cheap to share with what it forks.

    For a process of one thread, once it has loaded everything.
    """
    gc.collect()
    gc.freeze()  # a child's collector would write to, and so copy, every page of what it inherits
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc's; what loading left behind would stay for ever
        libc.malloc_trim(0)
    with suppress(OSError):  # no such file: not Linux
        for start, size in list(unwritten(Path("/proc/self/smaps").read_text(errors="replace"))):
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), mmap.MADV_DONTNEED)


def unwritten(smaps: str) -> Iterator[tuple[int, int]]:
    """Mappings of files in which no page can be or was written: address and size in bytes.

    Linking a library reads its tables of symbols and relocations, once: 200 MB for torch's. Such
    pages come back from the file when they are needed, so letting go of them loses nothing.
    """
    _, *parts = _MAPPING.split(smaps)
    for start, end, may, inode, rest in zip(*[iter(parts)] * 5, strict=True):
        if inode != "0" and "w" not in may and _CHANGED.findall(rest) == ["0", "0"]:
            yield int(start, 16), int(end, 16) - int(start, 16)
