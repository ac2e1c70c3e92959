"""Who may talk to the dashboard: this machine's browser, on our own page, with the token. No web library here.

Three locks, each enough against one attack: the Host of a request against names that somebody points at 127.0.0.1 (DNS
rebinding), its Origin and Sec-Fetch-Site against other pages in the same browser, the token against other users and
programs of the machine. The token stands in the part of the URL that no request carries, and the page keeps it in its
tab: a cookie would be sent to every port of 127.0.0.1.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs

TOKEN_BYTES = 24
_NAMES = ("127.0.0.1", "localhost")


def new_token() -> str:
    """192 random bits for a URL."""
    return secrets.token_urlsafe(TOKEN_BYTES)


@dataclass(frozen=True)
class Guard:
    """The rules of one server on 127.0.0.1."""

    port: int
    token: str = field(default_factory=new_token, repr=False)

    @property
    def url(self) -> str:
        """What a person opens."""
        return f"http://127.0.0.1:{self.port}/#token={self.token}"

    def refused(self, headers: Mapping[str, str]) -> str | None:
        """Why a request must not be answered, by its headers (names in lower case); None when it may be."""
        hosts = {f"{name}:{self.port}" for name in _NAMES}
        if headers.get("host", "").lower() not in hosts:
            return "this Host is not served"
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in {f"http://{host}" for host in hosts}:
            return "another site's page asks"
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return "another site's page asks"
        return None

    def knows(self, token: str | None) -> bool:
        """Whether the token is ours, in a time that says nothing about it."""
        return token is not None and hmac.compare_digest(token.encode(), self.token.encode())

    def bearer(self, headers: Mapping[str, str]) -> bool:
        """Whether an Authorization header brings the token."""
        kind, _, token = headers.get("authorization", "").partition(" ")
        return kind.lower() == "bearer" and self.knows(token.strip())

    def query(self, query_string: bytes) -> bool:
        """Whether a URL's query brings the token, as a WebSocket's does: a browser gives it no other place."""
        try:
            found = parse_qs(query_string.decode("ascii"), max_num_fields=8).get("token", [])
        except ValueError:
            return False
        return len(found) == 1 and self.knows(found[0])

    @property
    def headers(self) -> dict[str, str]:
        """Of every answer: nothing but our own files runs or is loaded, nothing is stored, nobody may frame it."""
        sockets = " ".join(f"ws://{name}:{self.port}" for name in _NAMES)
        return {
            "content-security-policy": (
                "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
                f"connect-src 'self' {sockets}; base-uri 'none'; form-action 'none'; "
                "frame-ancestors 'none'; require-trusted-types-for 'script'; "
                "trusted-types 'none'"
            ),
            "cache-control": "no-store",
            "x-content-type-options": "nosniff",
            "x-frame-options": "DENY",
            "referrer-policy": "no-referrer",
            "cross-origin-opener-policy": "same-origin",
            "cross-origin-resource-policy": "same-origin",
            "permissions-policy": "camera=(), microphone=(), geolocation=()",
        }
