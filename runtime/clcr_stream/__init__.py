"""Streaming edge runtime for CLCR: camera, microphone and transcript to predictions over ZeroMQ."""

__version__ = "0.1.0"
