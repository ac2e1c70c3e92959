"""CURVE certificates of a server and its readers, for tests of encrypted endpoints."""

from __future__ import annotations

from pathlib import Path

import zmq.auth


def write_keys(folder: Path) -> Path:
    """Certificates of server, reader and stranger in `folder`, and `allowed`, the folder of those who may read."""
    for name in ("server", "reader", "stranger"):
        zmq.auth.create_certificates(folder, name)
        (folder / f"{name}.key_secret").chmod(0o600)
    (folder / "allowed").mkdir()
    (folder / "reader.key").rename(folder / "allowed" / "reader.key")
    return folder
