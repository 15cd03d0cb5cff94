"""Keeps the current folder off the path where Python looks for modules.

Anybody may have put a random.py there: it may be /tmp. Python itself puts the current folder on the
path for `-c` and `-m`, which is how multiprocessing starts its fork server, and for an empty or
relative entry of PYTHONPATH, such as the last one of `PYTHONPATH=/opt/more:`.

Every program calls `leave_current_folder` before it imports anything else. That is why neither this
module nor a program begins with `from __future__`, which imports a module too.
"""

import os
import sys

#: The folder that holds the package. It stays on the path, also while it is the current folder.
OWN_FOLDER = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))


def leave_current_folder() -> None:
    """For programs, not for libraries: the path is that of the whole process."""
    if sys.flags.ignore_environment and not sys.flags.safe_path:
        # Under -E no process below this one would read the variables of `for_children`. The flag
        # -P does the same for it, and multiprocessing passes flags on.
        os.execv(sys.executable, [sys.executable, "-P", *sys.orig_argv[1:]])
    pythonpath = "" if sys.flags.ignore_environment else os.environ.get("PYTHONPATH", "")
    try:
        current = os.getcwd()
    except OSError:  # it was deleted: nothing can be imported from there
        current = ""
    as_module = sys.modules["__main__"].__spec__ is not None and not sys.flags.safe_path
    sys.path[:] = without_current_folder(sys.path, pythonpath, current, as_module)


def without_current_folder(
    path: list[str], pythonpath: str, current: str, as_module: bool
) -> list[str]:
    """What may stay of a path, each folder once.

    Args:
        path: as Python made it. Entries that come from PYTHONPATH are absolute there already.
        pythonpath: the variable PYTHONPATH.
        current: the current folder, or "" if there is none any more.
        as_module: whether the program was started by `python -m`, which puts it first.
    """
    entries = pythonpath.split(os.pathsep) if pythonpath else []
    wanted = {OWN_FOLDER, *(os.path.normpath(e) for e in entries if os.path.isabs(e))}
    relative = {os.path.normpath(os.path.join(current, e)) for e in entries if not os.path.isabs(e)}
    if as_module and path[0] not in wanted:
        path = path[1:]
    kept = [p for p in path if os.path.isabs(p) and (p in wanted or p not in relative)]
    if OWN_FOLDER not in kept:  # it was there as ""
        kept.insert(0, OWN_FOLDER)
    return list(dict.fromkeys(kept))


def for_children() -> dict[str, str]:
    """Variables by which another Python looks for modules where this one does, and nowhere else."""
    # A folder with a colon in its name cannot be named there: its second half would be relative.
    named = [p for p in sys.path if os.path.isabs(p) and os.pathsep not in p]
    return {"PYTHONPATH": os.pathsep.join(named), "PYTHONSAFEPATH": "1"}
