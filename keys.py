#!/usr/bin/env python3
"""The command line for the keys of other machines. Its code is in spyglass/keys/."""

import sys

if __name__ == "__main__":
    from spyglass.keys.cli import main

    sys.exit(main())
