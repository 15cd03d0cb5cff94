#!/usr/bin/env python3
"""The web: pages and the HTTP API before a broker. Its code is in spyglass/web/."""

import sys

if __name__ == "__main__":
    from spyglass.web.cli import main

    sys.exit(main())
