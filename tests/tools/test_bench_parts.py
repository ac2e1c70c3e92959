"""The parts of the benchmarks that decide something: search, verdicts, delivery, histories, refusals."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from any_text import texts
from bench import attention, machine, power
from bench.bus import Arrival, delivery
from bench.clip import random_clip
from bench.command import BenchError, as_text
from bench.models import Variant, key
from bench.ours import Playback
from bench.peers import History, Stage, rotated
from bench_streams import SETTLE_MS, WARM_UP_TICKS, judge, largest_passing, slope

HOP_MS = 200.0


@given(st.integers(0, 300), st.integers(1, 300))
def test_the_search_finds_the_largest_passing_number_and_asks_each_once(limit: int, most: int) -> None:
    asked: list[int] = []

    def passes(streams: int) -> bool:
        asked.append(streams)
        return streams <= limit

    assert largest_passing(passes, most) == min(limit, most)
    assert len(set(asked)) == len(asked)
    assert all(1 <= streams <= most for streams in asked)
    assert len(asked) <= 2 * math.ceil(math.log2(most + 1)) + 1


def published(ticks: int, late_ms: float, without: int | None = None) -> list[dict[str, Any]]:
    """One stream's predictions, each `late_ms` after it was due."""
    return [
        {
            "seq": seq,
            "window": {"end_ns": int(seq * HOP_MS * 1e6)},
            "published_ns": int((seq * HOP_MS + SETTLE_MS + late_ms) * 1e6),
            "timing_ms": {"total": 5.0, "batch": 2},
        }
        for seq in range(1, ticks + 1)
        if seq != without
    ]


@pytest.mark.parametrize(
    ("late_ms", "without", "passed", "missed"),
    [(10.0, None, True, 0), (201.0, None, False, 0), (10.0, 30, False, 1), (10.0, WARM_UP_TICKS, True, 0)],
)
def test_a_probe_passes_only_when_every_due_tick_came_within_a_hop(
    late_ms: float, without: int | None, passed: bool, missed: int
) -> None:
    found = judge([published(50, 10.0), published(50, late_ms, without)], 50, HOP_MS)
    assert (found["passed"], found["missed"]) == (passed, missed)
    assert found["due"] == 2 * (50 - WARM_UP_TICKS)
    assert found["batch"]["max"] == 2


def test_a_stream_that_published_nothing_fails_the_probe() -> None:
    assert judge([published(50, 1.0), []], 50, HOP_MS)["missed"] == 50 - WARM_UP_TICKS
    assert judge([[]], 50, HOP_MS)["passed"] is False


@given(st.floats(-50, 50), st.floats(0, 500), st.sets(st.integers(1, 100), min_size=2, max_size=10))
def test_memory_per_stream_is_the_slope_of_a_line(per_stream: float, start: float, counts: set[int]) -> None:
    assert slope([(n, start + per_stream * n) for n in counts]) == pytest.approx(per_stream, abs=0.02)


def test_memory_per_stream_is_unknown_from_one_number_of_streams() -> None:
    assert slope([(4, 100.0), (4, 101.0)]) is None


def arrivals(seqs: list[int], delay_ms: float) -> list[Arrival]:
    return [
        Arrival(
            int((100 * seq + delay_ms) * 1e6), seq, int(100 * seq * 1e6), 0, int((100 * seq + delay_ms - 0.5) * 1e6)
        )
        for seq in seqs
    ]


def test_delivery_counts_what_a_reader_missed_and_drops_what_came_twice() -> None:
    found = delivery([arrivals([1, 2, 3, 4], 1.0), arrivals([2, 2, 3, 6], 2.0)])
    assert (found["lost"], found["received"], found["repeated"]) == (2, 7, 1)
    assert sorted(round(delay) for delay in found["publish_to_receive_ms"]) == [1, 1, 1, 1, 2, 2, 2]
    assert found["own_ms"] == pytest.approx([0.5] * 7)
    assert delivery([[], []])["lost"] == 0


def test_delivery_leaves_out_the_first_messages_of_each_reader() -> None:
    found = delivery([arrivals([1, 2, 3], 1.0), arrivals([2, 3, 4], 5.0)], warm_up=2)
    assert [round(delay) for delay in found["publish_to_receive_ms"]] == [1, 5]


@given(
    st.dictionaries(
        texts(max_size=5),
        st.one_of(
            st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=4),
            texts(),
            st.none(),
            st.lists(st.dictionaries(texts(max_size=3), st.lists(st.integers(), max_size=3)), max_size=2),
        ),
        max_size=5,
    )
)
def test_the_written_json_says_what_was_measured(document: dict[str, Any]) -> None:
    assert json.loads(as_text(document)) == document


def test_numbers_of_a_list_stand_on_one_line() -> None:
    assert '"samples": [1.5, 2.5, -3e-05]' in as_text({"samples": [1.5, 2.5, -3e-5]})


def test_a_grid_whose_hops_hold_no_whole_steps_is_refused() -> None:
    assert Variant().per_hop(15) == 3
    assert Variant(window_ms=30000).grid().vision_tokens == 450
    with pytest.raises(BenchError, match="100 ms does not hold whole steps of 15 Hz"):
        Variant(hop_ms=100).grid()


def test_an_export_is_not_taken_from_the_cache_for_other_settings() -> None:
    assert key({"hop": 1}) == key({"hop": 1})
    assert key({"hop": 1}) != key({"hop": 2})


CLIP = Playback(random_clip(hops=4, slots=3, tokens=5, size_px=4, bands=6), 200_000_000, 8, 10000.0, 1.0)
STEPS = {
    "vision_valid": (1, 10),
    "mel": (1, 24, 6),
    "vision_position": (1, 9, 8),
    "gamma": (1, 1),
    "language_x": (1, 2),
}


def test_a_recompute_sees_the_last_steps_of_the_hops_and_zeros_before_the_start() -> None:
    words = {"language_x": np.full((1, 2), 7.0)}
    history = History({name: np.zeros(shape) for name, shape in STEPS.items()}, words)
    hops = [CLIP.hop(number) for number in range(1, 7)]
    for count, hop in enumerate(hops, 1):
        history.push(hop)
        for name, source in (("vision_valid", "vision_valid"), ("mel", "acoustic_in"), ("vision_position",) * 2):
            everything = np.concatenate([seen[source] for seen in hops[:count]], 1)
            before = np.zeros((1, *STEPS[name][1:]), np.float32)
            expected = np.concatenate([before, everything], 1)[:, -STEPS[name][1] :]
            np.testing.assert_array_equal(history.window[name], expected)
    assert history.window["gamma"].item() == 1.0
    assert history.window["language_x"].tolist() == [[7.0, 7.0]]


def test_a_recompute_with_an_input_nobody_has_is_refused() -> None:
    with pytest.raises(BenchError, match="input depth is neither"):
        History({"depth": np.zeros((1, 3))}, {}).push(CLIP.hop(1))


class Shifted:
    """A peer whose answer changes from tick to tick, with an error of its own."""

    def __init__(self, error: float, swing: float) -> None:
        self.probs = np.zeros(2)
        self.asked: list[int] = []
        self._error, self._swing = error, swing

    def answer(self, number: int, hop: object, window: object) -> float:
        self.asked.append(number)
        first = 0.5 + self._swing * (number % 2) + self._error
        self.probs = np.array([first, 1 - first])
        return 1.0


def stage(*errors: float, swing: float = 0.1) -> Stage:
    history = History({"vision_valid": np.zeros((1, 3))}, {})
    return Stage(CLIP, history, {f"peer {index}": Shifted(error, swing) for index, error in enumerate(errors)})


def test_peers_that_disagree_are_not_compared() -> None:
    agreed, apart = stage(0.0, 5e-5), stage(0.0, 5e-4)
    for one in (agreed, apart):
        one.warm_up(2)
    agreed.check()
    with pytest.raises(BenchError, match=r"refused: peer 1 differs from peer 0 by 5\.0e-04"):
        apart.check()


@pytest.mark.parametrize("swing", [0.0, 1e-6])
def test_answers_that_hardly_change_prove_less(swing: float) -> None:
    still = stage(0.0, 1e-7, swing=swing)
    still.warm_up(2)
    with pytest.raises(BenchError, match="refused"):
        still.check()


def test_an_answer_that_is_not_a_number_is_a_disagreement() -> None:
    broken = stage(0.0, math.nan)
    broken.warm_up(1)
    with pytest.raises(BenchError, match="refused"):
        broken.check()


def test_every_peer_answers_every_tick_and_each_comes_first_in_turn() -> None:
    one = stage(0.0, 0.0, 0.0)
    one.warm_up(3)
    times = one.run(0.01, paced=False)
    asked = [peer.asked for peer in one.peers.values()]  # type: ignore[attr-defined]
    assert asked[0] == asked[1] == asked[2] == list(range(1, one.ticks + 1))
    assert {name: len(found) for name, found in times.items()} == dict.fromkeys(one.peers, one.ticks - 3)
    assert [rotated(["a", "b", "c"], by)[0] for by in range(4)] == ["a", "b", "c", "a"]


def test_products_of_window_by_window_are_told_from_the_rest() -> None:
    window = attention.Lengths(90, 150, 64)
    assert window.all == {90, 150, 64, 214, 154, 240}
    for operator, shapes, kind in (
        ("MatMul", [[1, 4, 90, 16], [1, 4, 16, 214], [1, 4, 90, 214]], attention.ATTENTION),
        ("FusedMatMul", [[1, 1, 1, 154], [1, 4, 150, 154], [1, 4, 1, 150]], attention.ATTENTION),
        ("MatMul", [[1, 3, 150], [150, 150], [1, 3, 150]], attention.PROJECTION),
        ("TopK", [[1, 3, 150], [1]], attention.PROJECTION),
        ("Concat", [[1, 12, 150, 16], [1, 12, 145, 16]], attention.LINEAR),
        ("Concat", [[1, 12, 64, 16], [1, 12, 150, 16], [1, 12, 214, 16]], attention.LINEAR),
        ("Conv", [[3, 16, 56, 56], [24, 16, 3, 3], [3, 24, 28, 28]], None),
        ("MatMul", [[1, 3, 64], [64, 64], [1, 3, 64]], None),
        ("MatMul", [[1, 64, 128], [128, 64]], None),
    ):
        assert attention.kind_of(operator, shapes, window) == kind, (operator, shapes)


def test_attention_is_counted_by_hand() -> None:
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [helper.make_node("MatMul", ["q", "k"], ["s"]), helper.make_node("MatMul", ["s", "w"], ["o"])]
    given_ = [helper.make_tensor_value_info(n, kind, ["streams", *s]) for n, s in (("q", (7, 3)), ("k", (3, 11)))]
    weight = onnx.numpy_helper.from_array(np.zeros((11, 2), np.float32), "w")
    out = [helper.make_tensor_value_info("o", kind, ["streams", 7, 2])]
    model = helper.make_model(helper.make_graph(nodes, "g", given_, out, [weight]))
    found = attention.counted(model.SerializeToString(), attention.Lengths(7, 4, 7))
    assert found == {attention.ATTENTION: 7 * 11 * 3 + 7 * 2 * 11, attention.PROJECTION: 0, attention.LINEAR: 0}


def test_the_machine_says_what_figures_depend_on() -> None:
    found = machine.machine()
    assert found["cores"] >= found["usable_cores"] >= 1
    assert found["cpu"] and found["kernel"]
    assert (found["governor"] is None) == (found["governor_reason"] is not None)
    assert machine.versions()["numpy"] == np.__version__
    commit = machine.revision()["commit"]
    assert commit is None or len(commit) == 40


def test_rapl_counters_become_watts_and_a_wrapped_one_says_nothing(tmp_path: Path) -> None:
    counter = tmp_path / "intel-rapl:0" / "energy_uj"
    counter.parent.mkdir()
    counter.write_text("1000000")
    read, _ = power.open_rapl(0.5, tmp_path)
    counter.write_text("6000000")
    assert read() == {"intel-rapl:0_w": 10.0}
    counter.write_text("5")
    assert read() == {}
    with pytest.raises(power.Unavailable, match="no intel-rapl package"):
        power.open_rapl(0.5, tmp_path / "elsewhere")


def test_every_platform_interface_that_is_not_there_has_a_reason() -> None:
    with power.PowerMeter(period_s=0.01) as meter:
        pass
    found = meter.report()
    for name in ("rapl", "nvml", "jtop", "clocks"):
        assert (found[name] is None) == (name in found["reasons"]), name
