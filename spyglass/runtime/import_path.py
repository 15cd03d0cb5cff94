"""Takes the current folder off the path where Python looks for modules.

Another user may have put a random.py there, if it is /tmp for instance. Python puts the current
folder on the path for `-c` and `-m`, which is how multiprocessing starts its fork server, and for
an empty or relative entry of PYTHONPATH, such as the last one of `PYTHONPATH=/opt/more:`.

Every program calls `leave_current_folder` before it imports anything else. That is why neither this
module nor a program begins with `from __future__`, which imports a module too.
"""

import os
import sys

#: The folder that holds the package. It stays on the path even if it is the current folder.
OWN_FOLDER = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))


def leave_current_folder() -> None:
    """Change sys.path. For programs, not for libraries: the path belongs to the whole process."""
    if sys.flags.ignore_environment and not sys.flags.safe_path:
        # Under -E the children of this process would ignore the variables of `for_children`. The
        # flag -P has the same effect, and multiprocessing passes flags on.
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
    """The entries of a path that may stay, each folder once.

    Args:
        path: sys.path as Python made it, with the entries of PYTHONPATH made absolute.
        pythonpath: the variable PYTHONPATH.
        current: the current folder, or "" if it has been deleted.
        as_module: whether the program was started by `python -m`, which puts that folder first.
    """
    entries = pythonpath.split(os.pathsep) if pythonpath else []
    wanted = {OWN_FOLDER, *(os.path.normpath(e) for e in entries if os.path.isabs(e))}
    relative = {os.path.normpath(os.path.join(current, e)) for e in entries if not os.path.isabs(e)}
    if as_module and path[0] not in wanted:
        path = path[1:]
    kept = [p for p in path if os.path.isabs(p) and (p in wanted or p not in relative)]
    if OWN_FOLDER not in kept:  # it was on the path as ""
        kept.insert(0, OWN_FOLDER)
    return list(dict.fromkeys(kept))


def for_children() -> dict[str, str]:
    """Variables that make another Python look for modules where this one does, and nowhere else."""
    # PYTHONPATH cannot hold a folder with a colon in its name: the second half would be relative.
    folders = [p for p in sys.path if os.path.isabs(p) and os.pathsep not in p]
    return {"PYTHONPATH": os.pathsep.join(folders), "PYTHONSAFEPATH": "1"}
