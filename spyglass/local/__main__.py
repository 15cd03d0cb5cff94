"""`python -m spyglass.local`, which `make run` calls."""

import sys

if __name__ == "__main__":
    from spyglass.local.run import main

    sys.exit(main())
