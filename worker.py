#!/usr/bin/env python3
"""A worker: computes what pictures show for a broker. Its code is in spyglass/worker/."""

import sys

if __name__ == "__main__":
    from spyglass.worker.cli import main

    sys.exit(main())
