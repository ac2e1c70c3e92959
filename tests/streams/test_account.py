"""The account of a session and the status made of it."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from clcr_stream.streams.account import KEPT_SAMPLES, Account, Last
from clcr_stream.streams.reports import Header, make_status
from clcr_stream.wire import messages


def test_a_status_is_degraded_by_its_sources_and_by_the_newest_prediction() -> None:
    account = Account()
    header = Header("default", "0" * 16, "boot", 1)
    assert make_status(account, (), header, 0.0).state == "starting"
    account.published(10.0, 5.0, 1.0, Last("happy", 0.9))
    live = messages.Source(name="0", kind="camera", state="live")
    assert make_status(account, (live,), header, 0.0).state == "running"
    waiting = msgspec.structs.replace(live, state="absent")
    assert make_status(account, (waiting,), header, 0.0).degraded == ("camera_absent",)
    account.published(10.0, 5.0, 1.0, Last("happy", 0.9, ("no_face",)))
    assert make_status(account, (live,), header, 0.0).degraded == ("no_face",)


@pytest.mark.parametrize("count", [1, 2, 3, 40, KEPT_SAMPLES])
def test_percentiles_lie_between_the_values_as_numpy_s_do(count: int) -> None:
    account = Account()
    values = np.random.default_rng(count).exponential(5.0, count)
    for value in values:
        account.published(value, value, value, Last())
    latency = account.latencies()[0]
    found = (latency.p50, latency.p95, latency.p99)
    np.testing.assert_allclose(np.array(found, float), np.percentile(values, (50, 95, 99)), rtol=0, atol=6e-4)


def test_percentiles_are_of_the_newest_values_only() -> None:
    account = Account()
    for value in [1000.0] * 10 + [1.0] * 5000:
        account.published(value, value, value, Last())
    assert account.latencies()[0] == messages.Latency(p50=1.0, p95=1.0, p99=1.0)
