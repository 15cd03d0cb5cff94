#!/usr/bin/env python3
"""The broker: takes pictures and hands them to workers. Its code is in spyglass/broker/."""

import sys

if __name__ == "__main__":
    from spyglass.broker.cli import main

    sys.exit(main())
