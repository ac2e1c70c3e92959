"""`python -m clcr_stream` is `clcr-stream`."""

from __future__ import annotations

import sys

from clcr_stream.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
