#!/usr/bin/env python3
"""The command line that recognises pictures. Its code is in spyglass/client/."""

import sys

if __name__ == "__main__":
    from spyglass.client.cli import main

    sys.exit(main())
