"""For the whole suite: PyTorch computes with one thread, ONNX Runtime keeps no telemetry.

Two threads for the small products of these tests fight with whatever else the machine does: test_clcr.py,
test_streaming_model.py and test_bases.py took 300 s beside one busy core, and take 23 s with one thread each.
"""

from __future__ import annotations

import os

# Before anything imports torch, and without importing it here: most tests do not need it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # for tests that import onnxruntime themselves
