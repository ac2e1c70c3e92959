"""Streaming edge runtime for CLCR: camera, microphone and transcript in, emotion predictions out.

    import clcr_stream

    with clcr_stream.open(camera="0", microphone="default") as stream:
        for prediction in stream:
            print(prediction.label, prediction.confidence)

Importing loads nothing: each name below is imported when it is first used. docs/embedding.md shows all of it.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # as typing's, which costs 5 ms before handlers of signals stand
if TYPE_CHECKING:
    from typing import Any

    from clcr_stream.embedding.library import Engines, open
    from clcr_stream.embedding.streams import PredictionStream, PushedStream
    from clcr_stream.errors import (
        BackendError,
        BundleError,
        ClcrError,
        ConfigError,
        OutputError,
        PublishError,
        SourceError,
    )
    from clcr_stream.inference.baselines import Baseline
    from clcr_stream.wire.client import Subscriber
    from clcr_stream.wire.messages import Prediction, Session, Status, Transcript

__version__ = "0.1.0"

_HOME = {
    "clcr_stream.embedding.library": ("Engines", "open"),
    "clcr_stream.embedding.streams": ("PredictionStream", "PushedStream"),
    "clcr_stream.errors": (
        "BackendError",
        "BundleError",
        "ClcrError",
        "ConfigError",
        "OutputError",
        "PublishError",
        "SourceError",
    ),
    "clcr_stream.inference.baselines": ("Baseline",),
    "clcr_stream.wire.client": ("Subscriber",),
    "clcr_stream.wire.messages": ("Prediction", "Session", "Status", "Transcript"),
}
_MODULES = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "BackendError",
    "Baseline",
    "BundleError",
    "ClcrError",
    "ConfigError",
    "Engines",
    "OutputError",
    "Prediction",
    "PredictionStream",
    "PublishError",
    "PushedStream",
    "Session",
    "SourceError",
    "Status",
    "Subscriber",
    "Transcript",
    "__version__",
    "open",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return __all__
