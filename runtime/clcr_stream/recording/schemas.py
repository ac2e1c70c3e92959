"""JSON Schemas as they are embedded in a recording: plain enough for Foxglove, which resolves no references.

The exact schemas of the messages are docs/schema/*.json; these say the same without references, alternatives and
limits, so a value that may be null is described by its other type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from clcr_stream.wire import messages
from clcr_stream.wire.schema import json_schema

_KEPT = ("title", "description", "contentEncoding")


def message_schema(kind: messages.Kind, labels: Sequence[str]) -> dict[str, Any]:
    """The schema of one kind of message; a prediction's `probs` are described label by label."""
    schema = plain(json_schema(kind))
    if kind == "prediction":
        schema["properties"]["probs"] = {
            "type": "object",
            "properties": {label: {"type": "number"} for label in labels},
        }
    return schema


def struct_schema(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The schema of a struct of ours."""
    return plain(msgspec.json.schema(kind))


def plain(schema: Mapping[str, Any]) -> dict[str, Any]:
    """`schema` with its references resolved, the first type that is not null of each alternative, and no limits."""
    definitions: Mapping[str, Any] = schema.get("$defs", {})

    def convert(node: Mapping[str, Any]) -> dict[str, Any]:
        if "$ref" in node:
            return convert(definitions[node["$ref"].rpartition("/")[2]])
        for alternatives in ("anyOf", "oneOf"):
            if alternatives in node:
                return convert(next(one for one in node[alternatives] if one.get("type") != "null"))
        kept = {name: node[name] for name in _KEPT if name in node}
        kind = node.get("type", "string")  # of constants and lists of them, which are all texts here
        if kind == "object":
            kept["properties"] = {name: convert(value) for name, value in node.get("properties", {}).items()}
        elif kind == "array":
            items = node["prefixItems"][0] if node.get("prefixItems") else node.get("items")
            kept["items"] = convert(items) if items else {"type": "string"}
        return {"type": kind, **kept}

    return convert(schema)
