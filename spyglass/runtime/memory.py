"""The memory of a process: how much it has, and giving back what only its start needed."""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

#: The first line of a mapping in proc_pid_smaps(5): from, to, permissions, offset, device, inode.
_MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ (\d+)", re.MULTILINE)
#: Pages that differ from the file: those in memory, and those swapped out.
_CHANGED = re.compile(r"^(?:Anonymous|Swap): +(\d+) kB", re.MULTILINE)


def rss(process: int | str = "self") -> int:
    """Bytes of a process's resident memory (proc_pid_statm(5)).

    Raises:
        OSError: there is no such process, or this is not Linux.
    """
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def held() -> int:
    """Bytes of this process's resident memory, or 0 on systems other than Linux."""
    with suppress(OSError):
        return rss()
    return 0


class _Malloc(ctypes.Structure):
    """The result of mallinfo2(3)."""

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
    info = mallinfo()
    return int(info.uordblks + info.hblkhd)


def settle() -> None:
    """Free what only loading needed, and let forked children share the rest.

    To be called in a process of one thread, once it has loaded everything.
    """
    gc.collect()
    gc.freeze()  # a child's garbage collector would write to, and so copy, every inherited page
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # in glibc only; else memory freed after loading stays taken
        libc.malloc_trim(0)
    with suppress(OSError):  # no such file: not Linux
        for start, size in list(unwritten(Path("/proc/self/smaps").read_text(errors="replace"))):
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), mmap.MADV_DONTNEED)


def unwritten(smaps: str) -> Iterator[tuple[int, int]]:
    """Mappings of files of which no page can be or was written: address and size in bytes.

    Linking a library reads its tables of symbols and relocations once, 200 MB for torch's. Such
    pages are read from the file again when they are needed, so dropping them loses nothing.
    """
    _, *parts = _MAPPING.split(smaps)
    for start, end, permissions, inode, rest in zip(*[iter(parts)] * 5, strict=True):
        if inode != "0" and "w" not in permissions and _CHANGED.findall(rest) == ["0", "0"]:
            yield int(start, 16), int(end, 16) - int(start, 16)
