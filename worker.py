#!/usr/bin/env python3
"""A worker: computes what pictures show for a broker. Its code is in spyglass/worker/."""

if __name__ == "__main__":
    import sys

    sys.path.insert(0, __file__.rpartition("/")[0])  # PYTHONSAFEPATH leaves it out
    from spyglass.runtime.import_path import leave_current_folder

    leave_current_folder()  # before anything else is imported
    from spyglass.worker.cli import main

    sys.exit(main())
