"""Scores against numbers worked out by hand, and properties every interval must have."""

from __future__ import annotations

import numpy as np
import pytest

from clcr.training import metrics


def _probs(predictions: list[int], confidence: list[float], classes: int) -> np.ndarray:
    rows = np.empty((len(predictions), classes))
    for row, (predicted, top) in enumerate(zip(predictions, confidence, strict=True)):
        rows[row] = (1 - top) / (classes - 1)
        rows[row, predicted] = top
    return rows


def test_accuracy_f1_and_confusion_match_a_worked_example() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    predictions = np.array([0, 0, 1, 1, 2, 0])
    counts = metrics.confusion(labels, predictions, 3)
    assert counts.tolist() == [[2, 1, 0], [0, 1, 1], [1, 0, 0]]
    assert metrics.accuracy(counts) == pytest.approx(3 / 6)
    # f1 = 2 tp / (support + predicted): 4/6, 2/4, 0/2
    assert metrics.per_class_f1(counts) == pytest.approx([4 / 6, 2 / 4, 0.0])
    assert metrics.macro_f1(counts) == pytest.approx((4 / 6 + 2 / 4) / 3)


def test_a_class_without_examples_does_not_lower_macro_f1_but_its_false_alarms_do() -> None:
    perfect = metrics.confusion(np.array([0, 1]), np.array([0, 1]), 3)
    assert metrics.macro_f1(perfect) == 1.0
    assert np.isnan(metrics.per_class_f1(perfect)[2])
    alarm = metrics.confusion(np.array([0, 1, 1]), np.array([0, 1, 2]), 3)
    assert metrics.macro_f1(alarm) == pytest.approx((1.0 + 2 / 3) / 2)


def test_ece_matches_a_worked_example_over_two_bins() -> None:
    labels = np.array([0, 0, 1, 1])
    probs = _probs([0, 0, 0, 1], [0.95, 0.95, 0.65, 0.65], 2)
    # bin of .95: accuracy 1, gap .05, two clips; bin of .65: accuracy .5, gap .15, two clips
    assert metrics.expected_calibration_error(probs, labels) == pytest.approx(0.5 * 0.05 + 0.5 * 0.15)


def test_a_perfectly_confident_and_right_model_has_no_calibration_error() -> None:
    labels = np.array([0, 1, 2])
    assert metrics.expected_calibration_error(np.eye(3)[labels], labels) == 0.0
    assert metrics.expected_calibration_error(np.eye(3)[(labels + 1) % 3], labels) == pytest.approx(1.0)


def test_ece_uses_equal_width_bins_closed_on_the_right() -> None:
    # 0.4 = 6/15 closes bin 6, 0.41 is in bin 7: gaps of opposite sign may only cancel inside one bin.
    labels = np.array([0, 1])
    same_bin = _probs([0, 0], [0.6, 0.6], 3)
    assert metrics.expected_calibration_error(same_bin, labels) == pytest.approx(abs(0.4 - 0.6) / 2)
    apart = _probs([0, 0], [6 / 15, 0.41], 4)
    assert metrics.expected_calibration_error(apart, labels) == pytest.approx((0.6 + 0.41) / 2)


def test_resampling_weights_give_the_same_scores_as_repeating_the_clips() -> None:
    rng = np.random.default_rng(3)
    labels, probs = rng.integers(0, 4, 50), rng.dirichlet(np.ones(4), 50)
    weights = rng.integers(0, 4, 50)
    repeated = np.repeat(np.arange(50), weights)
    assert metrics.expected_calibration_error(probs, labels, weights.astype(float)) == pytest.approx(
        metrics.expected_calibration_error(probs[repeated], labels[repeated])
    )


def test_every_resample_has_as_many_clips_and_groups_stay_whole() -> None:
    free = metrics.resampling_weights(30, metrics.Bootstrap(resamples=100, seed=1))
    assert (free.sum(1) == 30).all()
    assert len(np.unique(free, axis=0)) > 90
    groups = ("a",) * 10 + ("b",) * 10 + ("c",) * 10
    whole = metrics.resampling_weights(30, metrics.Bootstrap(resamples=100, seed=1, groups=groups))
    assert (whole.reshape(100, 3, 10) == whole.reshape(100, 3, 10)[:, :, :1]).all()


def test_one_group_id_per_clip_is_demanded() -> None:
    with pytest.raises(ValueError, match="2 groups for 3 clips"):
        metrics.resampling_weights(3, metrics.Bootstrap(groups=("a", "b")))


def test_the_interval_holds_the_value_and_shrinks_with_more_clips() -> None:
    rng = np.random.default_rng(0)

    def width(n: int) -> float:
        labels = np.arange(n) % 6
        predictions = np.where(rng.random(n) < 0.6, labels, (labels + 1) % 6)
        scores = metrics.classification_scores(np.eye(6)[predictions], labels)
        accuracy = scores["accuracy"]
        assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
        return float(accuracy["high"] - accuracy["low"])

    small, large = width(60), width(2400)
    # the normal approximation gives 2 * 1.96 * sqrt(p q / n)
    assert small == pytest.approx(2 * 1.96 * np.sqrt(0.24 / 60), rel=0.2)
    assert large == pytest.approx(2 * 1.96 * np.sqrt(0.24 / 2400), rel=0.2)


def test_intervals_repeat_with_the_seed_and_widen_when_whole_speakers_are_drawn() -> None:
    labels = np.arange(240) % 6
    right = np.repeat([True, False, True, False, True, False, True, True], 30)
    probs = np.eye(6)[np.where(right, labels, (labels + 1) % 6)]
    speakers = tuple(str(index // 30) for index in range(240))
    by_clip = metrics.classification_scores(probs, labels)
    assert by_clip == metrics.classification_scores(probs, labels)
    by_speaker = metrics.classification_scores(probs, labels, metrics.Bootstrap(groups=speakers))
    span = {name: s["accuracy"]["high"] - s["accuracy"]["low"] for name, s in (("c", by_clip), ("s", by_speaker))}
    assert span["s"] > 2 * span["c"]
    assert by_speaker["interval"]["unit"] == "group"


def test_regression_scores_match_a_worked_example_and_acc2_skips_neutral_targets() -> None:
    scores = metrics.regression_scores(np.array([1.0, -0.5, 2.0, -1.0]), np.array([2.0, 0.5, 0.0, -1.0]))
    assert scores["mae"]["value"] == pytest.approx((1 + 1 + 2 + 0) / 4)
    assert scores["acc2"]["value"] == pytest.approx(2 / 3)
    assert scores["acc7"]["value"] == pytest.approx(1 / 4)
    assert scores["corr"]["value"] == pytest.approx(np.corrcoef([1.0, -0.5, 2.0, -1.0], [2.0, 0.5, 0.0, -1.0])[0, 1])


def test_acc7_rounds_halves_away_from_zero_and_knows_no_value_beyond_three() -> None:
    said, meant = np.array([0.5, -0.5, 7.0, -2.4, 0.4, 2.5]), np.array([1.0, -1.0, 3.0, -2.0, 0.0, 2.0])
    assert metrics.regression_scores(said, meant)["acc7"]["value"] == pytest.approx(5 / 6)


def test_the_correlation_of_weighted_samples_is_that_of_repeated_ones() -> None:
    rng = np.random.default_rng(4)
    said, meant, times = rng.normal(size=9), rng.normal(size=9), rng.integers(0, 4, 9)
    repeated = np.corrcoef(np.repeat(said, times), np.repeat(meant, times))[0, 1]
    found = metrics.correlation(said, meant, np.stack([times, np.ones(9)]).astype(np.float64))
    assert found == pytest.approx([repeated, np.corrcoef(said, meant)[0, 1]])
    assert metrics.correlation(np.ones(9), meant, np.ones(9)) == 0.0


def test_the_fitted_temperature_undoes_a_known_scaling() -> None:
    rng = np.random.default_rng(5)
    logits = rng.normal(size=(20000, 4)) * 2
    labels = np.array([rng.choice(4, p=row) for row in metrics.softmax(logits)])
    assert metrics.fit_temperature(logits * 3, labels) == pytest.approx(3.0, rel=0.05)
    assert metrics.softmax(logits * 3, 3.0) == pytest.approx(metrics.softmax(logits))


def test_the_answers_that_are_sure_enough_are_counted_and_judged_alone() -> None:
    probs = np.array([[0.9, 0.1], [0.45, 0.55], [0.2, 0.8], [0.65, 0.35]])
    found = {entry["least"]: entry for entry in metrics.sure(probs, np.array([0, 0, 1, 1]))}
    assert found[0.5] == {"least": 0.5, "coverage": 1.0, "accuracy": 0.5}
    assert found[0.6] == {"least": 0.6, "coverage": 0.75, "accuracy": pytest.approx(2 / 3)}
    assert found[0.8]["coverage"] == 0.5 and found[0.8]["accuracy"] == 1.0
    assert metrics.sure(probs[1:2], np.array([0]))[-1]["accuracy"] is None
