"""Who may talk to the dashboard."""

from __future__ import annotations

import pytest

from clcr_stream.dashboard.guard import Guard, new_token

OURS = Guard(8420, "secret")


@pytest.mark.parametrize("host", ["127.0.0.1:8420", "localhost:8420", "LOCALHOST:8420"])
def test_our_own_names_are_served(host: str) -> None:
    assert OURS.refused({"host": host}) is None
    own = {"host": host, "origin": f"http://{host}", "sec-fetch-site": "same-origin"}
    assert OURS.refused(own) is None


@pytest.mark.parametrize(
    "host",
    [
        "",
        "127.0.0.1",
        "127.0.0.1:8421",
        "evil.example:8420",
        "127.0.0.1.evil.example:8420",
        "localhost:8420, evil",
        "0.0.0.0:8420",
    ],
)
def test_a_name_that_somebody_points_at_this_machine_is_not_served(host: str) -> None:
    assert OURS.refused({"host": host}) == "this Host is not served"
    assert OURS.refused({}) == "this Host is not served"


@pytest.mark.parametrize(
    "more",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "https://127.0.0.1:8420"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": ""},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},  # another port of this machine
    ],
)
def test_another_site_s_page_is_refused(more: dict[str, str]) -> None:
    assert OURS.refused({"host": "127.0.0.1:8420", **more}) == "another site's page asks"


def test_the_token_is_asked_for_wherever_it_may_stand() -> None:
    assert OURS.knows("secret") and not OURS.knows("secre") and not OURS.knows(None) and not OURS.knows("sécret")
    assert OURS.bearer({"authorization": "Bearer secret"}) and OURS.bearer({"authorization": "bearer  secret"})
    assert not OURS.bearer({}) and not OURS.bearer({"authorization": "Basic secret"})
    assert OURS.query(b"token=secret") and OURS.query(b"a=1&token=secret")
    for query in (b"", b"token=", b"token=Secret", b"token=x&token=secret", b"token=\xff", b"&".join([b"a=1"] * 9)):
        assert not OURS.query(query)


def test_every_server_has_another_token_and_its_url_sends_it_to_nobody() -> None:
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100 and min(map(len, tokens)) >= 32
    assert OURS.url == "http://127.0.0.1:8420/#token=secret", "behind the #, which no request carries"
    assert "secret" not in repr(OURS)


def test_no_inline_script_and_no_other_host_is_allowed() -> None:
    policy = dict(part.strip().partition(" ")[::2] for part in OURS.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'" and policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["connect-src"] == "'self' ws://127.0.0.1:8420 ws://localhost:8420"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert "unsafe" not in str(policy)
    assert OURS.headers["cache-control"] == "no-store" and OURS.headers["referrer-policy"] == "no-referrer"
