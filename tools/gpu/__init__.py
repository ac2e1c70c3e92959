"""Parts of gpu_check.py. They run in Python 3.9 with numpy alone, from a checkout where nothing is installed."""

import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("clcr_stream") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "runtime"))
