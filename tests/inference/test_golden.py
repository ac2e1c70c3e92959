"""The bundle's golden vectors, replayed by a backend."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest

from clcr_stream.bundle.loader import Bundle, default_bundle_folder, load_bundle
from clcr_stream.errors import BackendError
from clcr_stream.inference.choose import open_backend
from clcr_stream.inference.golden import GOLDEN_NAME, TOLERANCE, replay_golden


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(default_bundle_folder())


def test_the_shipped_engines_repeat_their_golden_vectors(bundle: Bundle) -> None:
    replayed = replay_golden(bundle, open_backend("onnxruntime"))
    assert replayed is not None
    hops, worst = replayed
    assert hops == 12
    assert worst <= TOLERANCE


def test_a_golden_value_that_differs_is_an_error_that_names_it(bundle: Bundle) -> None:
    with np.load(io.BytesIO(bundle.files[GOLDEN_NAME]), allow_pickle=False) as archive:
        golden = {name: archive[name] for name in archive.files}
    golden["omega"] = golden["omega"].copy()
    golden["omega"][4, 1] += 1e-3
    buffer = io.BytesIO()
    np.savez(buffer, **golden)
    altered = replace(bundle, files=bundle.files | {GOLDEN_NAME: buffer.getvalue()})
    with pytest.raises(BackendError, match=r"omega of hop 5 differs by 1.0e-03"):
        replay_golden(altered, open_backend("onnxruntime"))


def test_a_backend_that_computes_nothing_is_found_out(bundle: Bundle) -> None:
    with pytest.raises(BackendError, match="golden vectors of bundle default"):
        replay_golden(bundle, open_backend("null"))


def test_a_bundle_without_golden_vectors_has_nothing_to_replay(bundle: Bundle) -> None:
    without = replace(bundle, files={name: data for name, data in bundle.files.items() if name != GOLDEN_NAME})
    assert replay_golden(without, open_backend("null")) is None
