"""Where metrics are served: --metrics ADDRESS:PORT."""

from __future__ import annotations

import importlib.util
import ipaddress
import re
from dataclasses import dataclass

from clcr_stream.errors import ConfigError

_FORM = re.compile(r"(?:(\[[0-9A-Fa-f:.]+\]|[0-9.]+|localhost):)?(\d{1,5})")


@dataclass(frozen=True)
class MetricsOptions:
    """An address of this machine and a port; 0 is any free one."""

    host: str = "127.0.0.1"
    port: int = 0

    @property
    def loopback(self) -> bool:
        """Whether only programs of this machine can ask."""
        return ipaddress.ip_address(self.host).is_loopback


def parse_metrics(text: str) -> MetricsOptions:
    """PORT, 127.0.0.1:PORT, [::1]:PORT or another address of this machine. ConfigError, also without the package."""
    match = _FORM.fullmatch(text)
    host = "127.0.0.1" if match is None or match[1] in (None, "localhost") else match[1].strip("[]")
    try:
        ipaddress.ip_address(host)
        if match is None or int(match[2]) > 65535:
            raise ValueError
    except ValueError:
        raise ConfigError(f"--metrics {text!r}: allowed are PORT, 127.0.0.1:PORT and ADDRESS:PORT") from None
    if importlib.util.find_spec("prometheus_client") is None:
        raise ConfigError('--metrics needs a package that is not installed: pip install "clcr-stream[metrics]"')
    return MetricsOptions(host, int(match[2]))
