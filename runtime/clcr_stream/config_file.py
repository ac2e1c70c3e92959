"""A configuration file as a plain tree: YAML without aliases and repeated keys, and not large."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clcr_stream.errors import ConfigError

MAX_CONFIG_BYTES = 64 * 1024
EXAMPLE = "configs/default.yaml"


def read_config_file(path: Path) -> Any:
    """The mapping in a YAML file of at most MAX_CONFIG_BYTES; ConfigError names the file and what is wrong."""
    import yaml

    class PlainLoader(yaml.SafeLoader):
        """SafeLoader without the features that let a small file become a large tree."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                event = self.peek_event()  # type: ignore[no-untyped-call]
                raise yaml.MarkedYAMLError(problem="aliases are not allowed", problem_mark=event.start_mark)
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value]
            for key in keys:
                if keys.count(key) > 1:
                    raise yaml.MarkedYAMLError(problem=f"key {key!r} appears twice", problem_mark=node.start_mark)
            return super().construct_mapping(node, deep)

    try:
        with path.open("rb") as file:
            text = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give --config FILE like {EXAMPLE}") from error
    if len(text) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes; a configuration looks like {EXAMPLE}")
    try:
        tree = yaml.load(text, PlainLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    tree = {} if tree is None else tree
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise ConfigError(f"{path}: must hold sections such as sources: and run:; see {EXAMPLE}")
    # A section or a list written with nothing under it is an empty one.
    return {key: ([] if key == "streams" else {}) if value is None else value for key, value in tree.items()}
