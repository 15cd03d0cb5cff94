#!/usr/bin/env python3
"""The command line that recognises pictures. Its code is in spyglass/client/."""

if __name__ == "__main__":
    import sys

    sys.path.insert(0, __file__.rpartition("/")[0])  # PYTHONSAFEPATH leaves it out
    from spyglass.runtime.import_path import leave_current_folder

    leave_current_folder()  # before anything else is imported
    from spyglass.client.cli import main

    sys.exit(main())
