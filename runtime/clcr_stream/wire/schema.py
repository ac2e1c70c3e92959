"""The messages' JSON Schema, as docs/schema/ and recordings hold it."""

from __future__ import annotations

from typing import Any

import msgspec

from clcr_stream.wire.messages import SCHEMA, TYPES, Kind


def json_schema(kind: Kind) -> dict[str, Any]:
    """The JSON Schema (2020-12) of one kind of message."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"clcr-stream:{kind}:{SCHEMA}",
        "title": f"clcr-stream {kind} message, schema {SCHEMA}",
        **msgspec.json.schema(TYPES[kind]),
    }
