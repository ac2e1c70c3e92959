"""The prediction message: each field against the answer that it is made of, and the answers that are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clcr_stream.bundle.manifest import MODALITIES
from clcr_stream.inference.levels import LevelOutputs
from clcr_stream.streams.language import LanguageTokens
from clcr_stream.streams.prediction import (
    STALE_AFTER_MS,
    Answer,
    Identity,
    compose,
    compose_tokens,
    degraded_reasons,
    newest_capture_ns,
    why_invalid,
)
from clcr_stream.window.cutter import Chunk, ModalityView, SeenFace
from clcr_stream.window.grid import TimeGrid
from clcr_stream.wire import messages
from tiny_bundle import LABELS, tiny_manifest

MS = 1_000_000
CLASSES = tiny_manifest()
VALUE = tiny_manifest("regression")
ORIGIN_NS = 5_000_000_000
TICK = TimeGrid.of(CLASSES, ORIGIN_NS).tick(7)
END_NS = TICK.end_ns
IDENTITY = Identity("kitchen", "0123456789abcdef", "boot", "a" * 64, "null")
SHARES = (0.05, 0.1, 0.4, 0.2, 0.15, 0.1)
# Every number of an answer differs from every other, so that none can stand in another's place unseen.
OUTPUTS = LevelOutputs(
    output=np.array(SHARES),
    omega=np.array([0.5, 0.3, 0.2]),
    beta=np.array([0.6, 0.25, 0.15]),
    eta=np.array([0.9, 0.7, 0.55]),
    active=np.arange(9).reshape(3, 3) / 16,
    mass=np.arange(9).reshape(3, 3) / 16 + 0.5,
    budget=np.arange(9, dtype=np.float64).reshape(3, 3) + 10,
    present=np.array([1.0, 1.0, 1.0]),
)


def seen(age_ms: float | None, coverage: float = 0.5, quality: float | None = None, count: int = 3) -> ModalityView:
    newest_ns = None if age_ms is None else END_NS - int(age_ms * MS)
    return ModalityView(coverage, quality, newest_ns, age_ms, count)


ABSENT = ModalityView(coverage=0.0, quality=None, newest_ns=None, age_ms=None, seen=0)


def words(age_ms: float | None, coverage: float = 0.25) -> LanguageTokens:
    """The window's text; its newest segment ends `age_ms` before the window does, after it when negative."""
    newest_ns = None if age_ms is None else END_NS - int(age_ms * MS)
    return LanguageTokens(levels={}, revision=0, coverage=coverage, newest_ns=newest_ns, ran=0)


SILENT = words(None, coverage=0.0)


def answer(
    vision: ModalityView = ABSENT,
    acoustic: ModalityView = ABSENT,
    language: LanguageTokens = SILENT,
    outputs: LevelOutputs = OUTPUTS,
    number: int = 7,
) -> Answer:
    tick = TimeGrid.of(CLASSES, ORIGIN_NS).tick(number)
    return Answer(Chunk(tick, vision, acoustic, []), language, outputs, gamma=0.75)


def composed(given_answer: Answer, published_ns: int = END_NS + 50 * MS) -> messages.Prediction:
    return compose(given_answer, CLASSES, IDENTITY, published_ns, {"total": 1.23456})


def test_tokens_are_the_alphas_as_bytes_by_modality_then_level() -> None:
    alpha = tuple(np.full(size, (1 + level * 3 + at) / 10) for level in range(3) for at, size in enumerate((3, 5, 2)))
    sent = composed(answer())
    tokens = compose_tokens(answer(outputs=replace(OUTPUTS, alpha=alpha)), sent)
    assert (tokens.seq, tokens.window, tokens.session) == (sent.seq, sent.window, sent.session)
    assert [list(level) for level in tokens.vision] == [[26] * 3, [102] * 3, [178] * 3]
    assert [list(level) for level in tokens.acoustic] == [[51] * 5, [128] * 5, [204] * 5]
    assert [list(level) for level in tokens.language] == [[76] * 2, [153] * 2, [230] * 2]


# --- what is refused


def test_a_valid_answer_is_not_refused() -> None:
    assert why_invalid(OUTPUTS, classification=True) is None


@pytest.mark.parametrize("name", ["output", "omega", "beta", "eta", "active", "mass", "budget"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_number_that_is_not_finite_refuses_the_answer_wherever_it_stands(name: str, value: float) -> None:
    array = getattr(OUTPUTS, name).copy()
    array.flat[-1] = value
    changes: dict[str, Any] = {name: array}
    assert why_invalid(replace(OUTPUTS, **changes), classification=True) == "an output is not finite"


@pytest.mark.parametrize(
    ("first", "last", "valid"),
    [
        (0.05, 0.1, True),
        (0.05, 0.1009, True),  # the sum is over one by less than the tolerance
        (0.05, 0.0991, True),
        (0.05, 0.1011, False),
        (0.05, 0.0989, False),
        (0.1509, -0.0009, True),  # below zero by less than the tolerance, the sum is one
        (0.1511, -0.0011, False),
    ],
)
def test_probabilities_are_refused_when_sum_or_smallest_is_off_by_more_than_the_tolerance(
    first: float, last: float, valid: bool
) -> None:
    output = np.array([first, *SHARES[1:-1], last])
    reason = why_invalid(replace(OUTPUTS, output=output), classification=True)
    assert (reason is None) == valid
    assert valid or reason == f"probabilities sum to {output.sum():.4f}"


@pytest.mark.parametrize("value", [-3.0, 0.0, 17.0])
def test_a_value_of_regression_may_be_any_finite_number(value: float) -> None:
    outputs = replace(OUTPUTS, output=np.array([value]))
    assert why_invalid(outputs, classification=False) is None
    assert why_invalid(replace(OUTPUTS, output=np.array([np.nan])), classification=False) is not None


# --- what is degraded


def test_a_window_with_everything_fresh_is_not_degraded() -> None:
    assert degraded_reasons(answer(seen(10), seen(10)).chunk, words(0)) == ()


def test_an_empty_window_says_so_alone_and_mentions_frames_without_a_face() -> None:
    assert degraded_reasons(answer().chunk, SILENT) == ("no_input",)
    assert degraded_reasons(answer(replace(ABSENT, seen=1)).chunk, SILENT) == ("no_input", "no_face")
    assert degraded_reasons(answer(acoustic=replace(ABSENT, seen=1)).chunk, SILENT) == ("no_input",)


@pytest.mark.parametrize(
    ("vision", "acoustic", "language", "reasons"),
    [
        (seen(10), ABSENT, SILENT, ("acoustic_absent", "language_absent")),
        (ABSENT, seen(10), SILENT, ("vision_absent", "language_absent")),
        (ABSENT, ABSENT, words(0), ("vision_absent", "acoustic_absent")),
        (replace(ABSENT, seen=1), seen(10), words(0), ("no_face",)),
        (seen(STALE_AFTER_MS["vision"] + 1, count=0), seen(10), words(0), ("vision_stale",)),
        (seen(STALE_AFTER_MS["vision"] + 1, count=1), seen(10), words(0), ("no_face",)),
        (seen(10, count=0), seen(10), words(0), ()),
        (seen(10), seen(STALE_AFTER_MS["acoustic"] + 1), words(0), ("acoustic_stale",)),
        (seen(10), seen(10, count=0), words(0), ()),
        (seen(10), replace(ABSENT, seen=5), words(0), ("acoustic_absent",)),
        # Old words are no fault: nobody may have spoken since.
        (seen(10), seen(10), words(5900), ()),
    ],
)
def test_each_fault_has_its_name_in_modality_order(
    vision: ModalityView, acoustic: ModalityView, language: LanguageTokens, reasons: tuple[str, ...]
) -> None:
    assert degraded_reasons(answer(vision, acoustic).chunk, language) == reasons


@pytest.mark.parametrize(("modality", "limit_ms"), [("vision", 600.0), ("acoustic", 500.0)])
def test_data_is_stale_when_older_than_the_limit_not_when_as_old(modality: str, limit_ms: float) -> None:
    for age_ms, reasons in ((limit_ms, ()), (limit_ms + 0.001, (f"{modality}_stale",))):
        views = {"vision": seen(10), "acoustic": seen(10)} | {modality: seen(age_ms, count=0)}
        chunk = answer(views["vision"], views["acoustic"]).chunk
        assert degraded_reasons(chunk, words(0)) == reasons


# --- the message


ages = st.one_of(st.none(), st.integers(0, 5999).map(float))


@given(vision_ms=ages, acoustic_ms=ages, language_ms=ages)
def test_the_capture_time_is_that_of_the_newest_datum_or_the_end_of_an_empty_window(
    vision_ms: float | None, acoustic_ms: float | None, language_ms: float | None
) -> None:
    present = [age_ms for age_ms in (vision_ms, acoustic_ms, language_ms) if age_ms is not None]
    expected_ns = END_NS - int(min(present, default=0.0)) * MS
    one = answer(seen(vision_ms), seen(acoustic_ms), words(language_ms))
    assert newest_capture_ns(one) == expected_ns
    prediction = composed(one, published_ns=END_NS + 50 * MS)
    assert prediction.captured_ns == expected_ns
    assert prediction.latency_ms == pytest.approx(50 + (END_NS - expected_ns) / MS)


def test_the_message_says_whose_it_is_and_which_window_it_is_about() -> None:
    prediction = composed(answer(seen(10)), published_ns=END_NS + 50 * MS)
    assert prediction.stream == "kitchen" and prediction.session == "0123456789abcdef"
    assert prediction.boot_id == "boot" and prediction.bundle == "a" * 64 and prediction.backend == "null"
    assert prediction.seq == 7 and prediction.published_ns == END_NS + 50 * MS
    assert (prediction.window.start_ns, prediction.window.end_ns) == (END_NS - 6_000 * MS, END_NS)
    assert prediction.levels.ran == (True, True, True) and prediction.levels.age_ms == (0.0, 0.0, 0.0)
    assert prediction.timing_ms == {"total": 1.235}
    assert prediction.degraded == ("acoustic_absent", "language_absent")


@pytest.mark.parametrize(("number", "filled"), [(1, 1 / 30), (7, 7 / 30), (29, 29 / 30), (30, 1.0), (31, 1.0)])
def test_the_window_s_filled_share_grows_to_one(number: int, filled: float) -> None:
    assert composed(answer(seen(10), number=number)).window.filled == pytest.approx(filled)


def test_a_classification_has_probabilities_by_label_the_best_of_them_and_no_value() -> None:
    prediction = composed(answer(seen(10)))
    assert prediction.probs == dict(zip(LABELS, SHARES, strict=True))
    assert (prediction.label, prediction.confidence) == (LABELS[2], 0.4)
    assert prediction.value is None


def test_a_regression_has_a_value_and_neither_probabilities_nor_label() -> None:
    one = answer(seen(10), outputs=replace(OUTPUTS, output=np.array([-1.5])))
    prediction = compose(one, VALUE, IDENTITY, END_NS, {})
    assert prediction.value == -1.5
    assert prediction.probs is None and prediction.label is None and prediction.confidence is None


@pytest.mark.parametrize("vision", [ABSENT, replace(ABSENT, seen=3)])
def test_a_window_without_any_input_has_no_label_and_its_probabilities_are_only_told(vision: ModalityView) -> None:
    prediction = composed(answer(vision))
    assert (prediction.label, prediction.confidence, prediction.value) == (None, None, None)
    assert prediction.probs == dict(zip(LABELS, SHARES, strict=True))
    assert prediction.degraded[0] == "no_input"
    one = answer(vision, outputs=replace(OUTPUTS, output=np.array([-1.5])))
    assert compose(one, VALUE, IDENTITY, END_NS, {}).value is None


@pytest.mark.parametrize("part", ["vision", "acoustic", "language"])
def test_one_modality_is_enough_for_an_answer(part: str) -> None:
    views = {"vision": seen(10), "acoustic": seen(10), "language": words(10)}
    prediction = composed(answer(**{part: views[part]}))  # type: ignore[arg-type]
    assert (prediction.label, prediction.confidence) == (LABELS[2], 0.4)


def test_levels_and_budget_are_the_outputs_row_by_row() -> None:
    prediction = composed(answer(seen(10)))
    assert prediction.levels.weights == (0.5, 0.3, 0.2)
    assert prediction.budget.gamma == 0.75
    assert np.array_equal(np.array(prediction.budget.active), OUTPUTS.active)
    assert np.array_equal(np.array(prediction.budget.mass), OUTPUTS.mass)


def test_each_modality_has_its_own_view_weight_and_gate() -> None:
    modalities = composed(answer(seen(40, 0.5, 0.8), seen(20, 0.125), words(300, 0.25))).modalities
    assert [getattr(modalities, name) for name in MODALITIES] == [
        messages.Modality(present=True, quality=0.8, age_ms=40, coverage=0.5, weight=0.6, gate=0.9),
        messages.Modality(present=True, quality=None, age_ms=20, coverage=0.125, weight=0.25, gate=0.7),
        messages.Modality(present=True, quality=None, age_ms=300, coverage=0.25, weight=0.15, gate=0.55),
    ]


@pytest.mark.parametrize("missing", MODALITIES)
def test_a_modality_is_present_exactly_when_the_window_holds_some_of_it(missing: str) -> None:
    one = answer(
        ABSENT if missing == "vision" else seen(10),
        ABSENT if missing == "acoustic" else seen(10),
        SILENT if missing == "language" else words(10),
    )
    modalities = composed(one).modalities
    assert {name: getattr(modalities, name).present for name in MODALITIES} == {
        name: name != missing for name in MODALITIES
    }
    assert getattr(modalities, missing).age_ms is None


@pytest.mark.parametrize(("ends_before_ms", "age_ms"), [(300.0, 300.0), (0.0, 0.0), (-700.0, 0.0)])
def test_the_age_of_words_runs_from_their_end_and_words_that_go_on_are_not_of_the_future(
    ends_before_ms: float, age_ms: float
) -> None:
    assert composed(answer(language=words(ends_before_ms))).modalities.language.age_ms == age_ms


@pytest.mark.parametrize(
    ("vision", "acoustic", "reasons"),
    [
        (replace(seen(10), condition="dark"), seen(10), ("vision_dark",)),
        (replace(seen(None, coverage=0.0), condition="covered"), seen(10), ("no_face", "vision_covered")),
        (replace(seen(900, count=0), condition="frozen"), seen(10), ("vision_stale", "vision_frozen")),
        (replace(seen(900, count=0), condition="dark"), seen(10), ("vision_stale",)),
        (seen(10), replace(seen(600, count=0), condition="silent"), ("acoustic_stale", "acoustic_silent")),
        (seen(10), replace(seen(10), condition="noisy"), ("acoustic_noisy",)),
        (ABSENT, replace(ABSENT, condition="silent"), ("vision_absent", "acoustic_absent", "acoustic_silent")),
    ],
)
def test_what_is_wrong_with_data_has_its_name_as_long_as_they_come(
    vision: ModalityView, acoustic: ModalityView, reasons: tuple[str, ...]
) -> None:
    assert degraded_reasons(answer(vision, acoustic).chunk, words(0)) == reasons


def test_nothing_but_a_muted_microphone_says_why_there_is_no_input() -> None:
    chunk = answer(ABSENT, replace(ABSENT, condition="silent")).chunk
    assert degraded_reasons(chunk, SILENT) == ("no_input", "acoustic_silent")


def test_the_message_carries_the_numbers_and_the_face_as_they_were_measured() -> None:
    vision = replace(seen(10), numbers={"luma": 0.123456, "sharpness": None})
    chunk = replace(answer(vision).chunk, face=SeenFace((0.25, 0.1, 0.5, 0.66666), person=3, faces=2))
    message = composed(replace(answer(vision), chunk=chunk))
    assert message.modalities.vision.numbers == {"luma": 0.1235, "sharpness": None}
    assert message.modalities.acoustic.numbers == {}
    assert message.face == messages.Face(box=(0.25, 0.1, 0.5, 0.6667), track=3, size=0.6667, seen=2)
    cut_out = replace(chunk, face=SeenFace(None, person=0, faces=1))
    face = composed(replace(answer(vision), chunk=cut_out)).face
    assert face == messages.Face(box=None, track=0, size=None, seen=1)
    assert composed(answer(vision)).face is None
