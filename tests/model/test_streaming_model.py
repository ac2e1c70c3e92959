"""The engines as pure functions with state: hop by hop they equal the offline model on the whole prefix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils import parametrize

from clcr.network.batch import Batch
from clcr.network.config import LEVELS, MODALITIES
from clcr.network.intraced import SCORE_LIMIT, Described, LevelOutputs
from clcr.network.model import CLCR
from clcr.network.streaming import STREAMED, Grid, StreamingInterCAD, StreamingLanguage, StreamingLevel, frozen_bases
from clcr_factory import (
    GRID,
    TINY,
    WINDOW_HOPS,
    Streamed,
    batch_of,
    changed,
    fixed_model,
    fused,
    language_inputs,
    random_batch,
    random_sample,
    removed,
    row_of,
    tiny_model,
)
from close import assert_close

checked = settings(deadline=None, max_examples=6)
# Of more streams at once: a hop of four costs hardly more than a hop of one.
fewer = settings(deadline=None, max_examples=3)
seeds = st.integers(0, 10**6)
TOLERANCE = 1e-5
Hop = list[dict[str, Tensor]]


def compare(hop: Hop, offline: Sequence[LevelOutputs], rows: slice = slice(None)) -> None:
    """A hop's public outputs against the offline model's; a window not yet full is compared over what it holds."""
    for out, expected in zip(hop, offline, strict=True):
        for name in ("shared", "private", "budget", "present"):
            assert_close(out[name][rows], getattr(expected, name), atol=TOLERANCE, rtol=0, msg=name)
        for m in MODALITIES:
            alpha, known = out[f"alpha_{m}"][rows], expected.alpha[m]
            start = alpha.shape[1] - known.shape[1]
            assert_close(alpha[:, start:], known, atol=TOLERANCE, rtol=0)
            assert bool((alpha[:, :start] == 0).all())


def check_every_hop(model: CLCR, batch: Batch, gamma: float = 1.0, grid: Grid = GRID) -> None:
    with torch.no_grad(), parametrize.cached():  # the weights stay
        tokens = model.encode(batch)
        for end, hop in enumerate(Streamed(model, batch, grid).hops(gamma), start=1):
            compare(hop, model.fuse(fused(model, tokens, end, grid), gamma))


@fewer
@given(seeds, st.floats(0.0, 1.0), st.floats(0.0, 1.5))
def test_every_hop_equals_the_offline_model_on_the_prefix(seed: int, coverage: float, gamma: float) -> None:
    """Random masks, ten hops of a four-hop window: warm-up, a full window and its wrap."""
    check_every_hop(fixed_model(seed % 3), random_batch(seed, samples=4, hops=10, coverage=coverage), gamma)


def test_the_default_window_wraps_after_thirty_hops_and_still_equals_the_prefix() -> None:
    grid = Grid(language_tokens=6, size_px=8)
    check_every_hop(fixed_model(), random_batch(5, samples=1, hops=34), grid=grid)


@settings(deadline=None, max_examples=2)
@given(seeds, st.lists(st.tuples(st.integers(1, 7), st.integers(0, 7)), min_size=2, max_size=2))
def test_a_modality_that_comes_late_or_goes_missing_equals_the_prefix(seed: int, spans: list[tuple[int, int]]) -> None:
    """Streams side by side: two without vision or sound but for a span of hops each, one without words."""
    rng = np.random.default_rng(seed)
    samples = []
    for mask_of, per_hop in (("vision_valid", 3), ("acoustic_valid", 5)):
        for come, stay in spans:
            sample = random_sample(rng, hops=8)
            mask = getattr(sample, mask_of)
            mask[: come * per_hop] = 0.0
            mask[(come + stay) * per_hop :] = 0.0
            samples.append(sample)
    speechless = random_sample(rng, hops=8)
    speechless.token_valid[:] = 0.0
    check_every_hop(fixed_model(), batch_of([*samples, speechless]))


@fewer
@given(seeds, st.integers(1, 7))
def test_future_input_never_changes_a_past_output(seed: int, from_hop: int) -> None:
    batch = random_batch(seed, samples=4, hops=8)
    mel = batch.mel.clone()
    mel[:, 20 * from_hop :] += 3.0
    valid = batch.acoustic_valid.clone()
    valid[:, 5 * from_hop :] = 1.0 - valid[:, 5 * from_hop :]
    frames = batch.frames.clone()
    frames[torch.nonzero(batch.vision_valid)[:, 1] >= 3 * from_hop] = 0
    one = Streamed(fixed_model(), batch)
    two = Streamed(fixed_model(), changed(batch, mel=mel, acoustic_valid=valid, frames=frames))
    two.frames = torch.where(batch.vision_valid.bool()[..., None, None, None], two.frames, one.frames)
    differs = False
    for index, (a, b) in enumerate(zip(one.hops(), two.hops(), strict=True)):
        for x, y in zip(a, b, strict=True):
            same = all(torch.equal(x[name], y[name]) for name in x)
            assert same or index >= from_hop
            differs = differs or not same
    assert differs


@fewer
@given(seeds)
def test_cached_tokens_are_bit_identical_while_they_slide(seed: int) -> None:
    streamed = Streamed(fixed_model(), random_batch(seed, samples=4, hops=9))
    previous: Hop | None = None
    for hop in streamed.hops():
        for old, new in zip(previous or hop, hop, strict=True):
            for m, steps in (("vision", GRID.vision_slots), ("acoustic", GRID.acoustic_slots)):
                for part, axis, shift in (("qkv", 2, steps), ("marks", 2, steps), ("pool", 1, 1)):
                    window, before = new[f"{m}_{part}_next"], old[f"{m}_{part}_next"]
                    size = window.shape[axis]
                    assert size == (WINDOW_HOPS if part == "pool" else getattr(GRID, f"{m}_tokens"))
                    if previous is not None:
                        assert torch.equal(
                            window.narrow(axis, 0, size - shift), before.narrow(axis, shift, size - shift)
                        )
        previous = hop


@checked
@given(seeds, st.floats(-1e4, 1e4))
def test_finite_garbage_in_masked_slots_changes_no_output_and_no_state(seed: int, garbage: float) -> None:
    torch.manual_seed(seed)
    model = fixed_model()
    for level in LEVELS:
        engine = StreamingLevel(model, level, GRID).eval()
        given = engine.example(2)
        for m in STREAMED:
            given[f"{m}_valid"] = (torch.rand_like(given[f"{m}_valid"]) < 0.5).float()
        dirty = dict(given)
        per_slot = {"vision": 1, "acoustic": 4 if level == 1 else 1}
        for m, repeat in per_slot.items():
            mask = given[f"{m}_valid"].repeat_interleave(repeat, 1)
            shape = (*mask.shape, *[1] * (given[f"{m}_in"].ndim - 2))
            dirty[f"{m}_in"] = torch.where(mask.view(shape) > 0, given[f"{m}_in"], torch.tensor(garbage))
            position = given[f"{m}_position"]
            dirty[f"{m}_position"] = torch.where(given[f"{m}_valid"][..., None] > 0, position, torch.tensor(garbage))
        with torch.no_grad():
            clean_out, dirty_out = (
                dict(zip(engine.output_names, engine(*g.values()), strict=True)) for g in (given, dirty)
            )
        for name, value in clean_out.items():
            if name.endswith("_out"):  # features of masked slots are masked again by the next level
                mask = given[f"{name.removesuffix('_out')}_valid"][..., None]
                assert torch.equal(value * mask, dirty_out[name] * mask)
            else:
                assert torch.equal(value, dirty_out[name]), name


@settings(deadline=None, max_examples=2)
@given(seeds)
def test_a_stream_in_a_batch_equals_the_stream_alone(seed: int) -> None:
    model, batch = fixed_model(), random_batch(seed, samples=4, hops=6)
    together = list(Streamed(model, batch).hops())
    for row in range(4):
        alone = Streamed(model, row_of(batch, row)).hops()
        for hop, expected in zip(together, alone, strict=True):
            for level, other in zip(hop, expected, strict=True):
                for name in ("shared", "private", "alpha_vision", "alpha_acoustic", "budget", "present"):
                    assert_close(level[name][row : row + 1], other[name], atol=TOLERANCE, rtol=0)


@fewer
@given(seeds, st.lists(st.floats(0.0, 1.5), min_size=6, max_size=6))
def test_gamma_may_change_every_hop_and_leaves_no_trace_in_the_state(seed: int, gammas: list[float]) -> None:
    model, batch = fixed_model(), random_batch(seed, samples=4, hops=6)
    steady, varied = Streamed(model, batch), Streamed(model, batch)
    varied.frames = steady.frames
    for index, gamma in enumerate(gammas):
        for a, b in zip(steady.step(index), varied.step(index, gamma), strict=True):
            assert all(torch.equal(a[name], b[name]) for name in a if name.endswith("_next"))
            assert torch.equal(a["private"], b["private"])


def test_nothing_present_gives_zero_summaries_and_a_finite_answer() -> None:
    model, batch = tiny_model(), random_batch(0, coverage=0.0)
    hop = next(Streamed(model, batch).hops())
    for level in hop:
        assert all(float(level[name].abs().max()) == 0.0 for name in ("shared", "private", "budget", "present"))
    probs = aggregate(model, hop)[0]
    assert_close(probs.sum(-1), torch.ones(2))


def aggregate(model: CLCR, hop: Hop) -> tuple[Tensor, ...]:
    engine = StreamingInterCAD(model).eval()
    given = [level[kind] for level in hop for kind in ("shared", "private")]
    with torch.no_grad():
        found: tuple[Tensor, ...] = engine(*given, hop[0]["present"])
    return found


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_the_last_engine_gives_the_offline_answer(task: str) -> None:
    model, batch = tiny_model(), random_batch(3, hops=WINDOW_HOPS)
    if task == "regression":
        model.config = replace(model.config, task="regression")  # the same weights, read as values
    model.temperature.values.copy_(torch.linspace(1.2, 1.9, 8))
    *_, hop = Streamed(model, batch).hops()
    scores, omega, beta, eta = aggregate(model, hop)
    with torch.no_grad():
        offline = model(batch)
    names = StreamingInterCAD(model).output_names
    assert names == ("value" if task == "regression" else "probs", "omega", "beta", "eta")
    for found, expected in (
        (scores, model.probabilities(offline)),
        (omega, offline.omega),
        (beta, offline.beta),
    ):
        assert_close(found, expected, atol=TOLERANCE, rtol=0)
    assert_close(eta, offline.eta, atol=TOLERANCE, rtol=0)


def test_the_language_engine_describes_the_tokens_of_the_offline_model() -> None:
    model, batch = tiny_model(), random_batch(3, coverage=0.5)
    engine = StreamingLanguage(model, GRID).eval()
    position = model.positions(batch.language_step, GRID.language_tokens)
    with torch.no_grad():
        found = dict(zip(engine.output_names, engine(batch.token_ids.int(), batch.token_valid, position), strict=True))
        expected = language_inputs(model, batch)
    assert len(found) == 9
    masked = batch.token_valid == 0
    assert bool(masked.any())
    for level, words in zip(LEVELS, expected, strict=True):
        for name, value in words.items():
            assert_close(found[f"{name}_{level}"], value, atol=2e-6, rtol=0)
            tokens_first = found[f"{name}_{level}"].movedim(1 if name == "language_pool" else 2, 1)
            assert bool((tokens_first[masked] == 0).all())


@checked
@given(seeds, st.floats(-1e4, 1e4))
def test_finite_garbage_in_masked_words_is_not_described(seed: int, garbage: float) -> None:
    torch.manual_seed(seed)
    model = fixed_model()
    engine = StreamingLanguage(model, GRID).eval()
    ids, valid = torch.randint(0, 20, (2, 6), dtype=torch.int32), (torch.rand(2, 6) < 0.5).float()
    position = torch.randn(2, 6, TINY.width)
    dirty = torch.where(valid[..., None] > 0, position, torch.tensor(garbage))
    with torch.no_grad():
        clean, other = engine(ids, valid, position), engine(torch.where(valid > 0, ids, 19 - ids), valid, dirty)
    assert all(torch.equal(a, b) for a, b in zip(clean, other, strict=True))


def test_a_model_whose_attention_could_lose_a_valid_token_is_not_streamed() -> None:
    model = tiny_model()
    exchange = model.exchanges[1]
    bound = exchange.largest_score()
    with torch.no_grad():
        hidden = torch.randn(1, 400, TINY.width)
        hidden = hidden / hidden.norm(dim=-1, keepdim=True) * TINY.width**0.5
        matrices = exchange.matrices(*exchange.bases())
        described = [exchange.describe(m, hidden, torch.ones(1, 400), matrices[m]) for m in MODALITIES]
        heads = TINY.heads
        scores = [
            (a.qkv[:, :heads] @ b.qkv[:, heads : 2 * heads].transpose(-1, -2)).abs().max()
            for a in described
            for b in described
            if a is not b
        ]
        assert 0.3 * bound < float(torch.stack(scores).max()) <= bound
        for modality, factor in (("vision", 1.01 * SCORE_LIMIT / bound), ("acoustic", 1.01), ("language", 1.01)):
            weight: Any = exchange.qkv[modality].weight
            weight.mul_(factor)
    assert exchange.largest_score() > SCORE_LIMIT
    with pytest.raises(ValueError, match="level 2: scores of attention may reach"):
        StreamingLevel(model, 2, GRID)


@torch.no_grad()
def test_valid_tokens_keep_their_shares_beside_a_window_of_masked_ones_when_scores_are_lowest() -> None:
    exchange, generator = tiny_model().exchanges[1], torch.Generator().manual_seed(0)
    heads, size = TINY.heads, TINY.shared_rank // TINY.heads
    valid = {"vision": torch.ones(1, 90), "acoustic": torch.zeros(1, 150), "language": torch.zeros(1, 64)}
    valid["acoustic"][0, -3:] = 1.0
    tokens = {}
    for modality, mask in valid.items():
        qkv = torch.randn(1, 3 * heads, mask.shape[1], size, generator=generator)
        qkv[:, : 2 * heads] *= 0.01
        qkv[:, :heads, :, 0], qkv[:, heads : 2 * heads, :, 0] = 8.3, torch.linspace(-8.4, -8.3, mask.shape[1])
        qkv = qkv * mask[:, None, :, None]
        tokens[modality] = Described(qkv, torch.stack([mask, mask], 1), torch.zeros(1, mask.shape[1], 1))
    alpha = {modality: mask * 0.5 for modality, mask in valid.items()}
    parts = {m: tokens[m].qkv.double() for m in ("vision", "acoustic")}
    q, k, v = parts["vision"][:, :heads], parts["acoustic"][:, heads : 2 * heads], parts["acoustic"][:, 2 * heads :]
    scores = q @ k[:, :, -3:].transpose(-1, -2)
    assert -SCORE_LIMIT < float(scores.min()) < 3 - SCORE_LIMIT
    expected = 0.5 * (torch.softmax(scores, -1) @ v[:, :, -3:]).sum(2, keepdim=True)
    assert_close(exchange.receive("vision", tokens, alpha).double(), expected, atol=1e-4, rtol=1e-4)
    alone = {
        m: tokens[m] if m == "vision" else replace(tokens[m], marks=tokens[m].marks * 0, qkv=tokens[m].qkv * 0)
        for m in tokens
    }
    assert float(exchange.receive("vision", alone, alpha).abs().max()) == 0.0  # an empty pool, and nothing overflows


@torch.no_grad()
def test_hundreds_of_hops_do_not_drift() -> None:
    """The newest window after 300 hops against a fresh start that sees only the tail with enough context."""
    hops, context = 300, 12
    generator = torch.Generator().manual_seed(0)
    engine = StreamingLevel(tiny_model(), 2, GRID).eval()
    inputs = engine.example(1)
    streams = {
        "vision": torch.randn(1, 3 * hops, TINY.width, generator=generator),
        "acoustic": torch.randn(1, 5 * hops, TINY.width, generator=generator),
    }
    masks = {m: (torch.rand(x.shape[:2], generator=generator) < 0.8).float() for m, x in streams.items()}
    positions = {m: torch.randn(x.shape, generator=generator) for m, x in streams.items()}

    def play(first: int) -> dict[str, Tensor]:
        given, out = inputs | engine.initial_state(1), dict[str, Tensor]()
        for hop in range(first, hops):
            for m, n in (("vision", 3), ("acoustic", 5)):
                span = slice(n * hop, n * hop + n)
                given |= {f"{m}_in": streams[m][:, span], f"{m}_valid": masks[m][:, span]}
                given[f"{m}_position"] = positions[m][:, span]
            out = dict(zip(engine.output_names, engine(*given.values()), strict=True))
            given |= {name: out[f"{name}_next"] for name in engine.state_names}
        return out

    whole, tail = play(0), play(hops - WINDOW_HOPS - context)
    for name, value in whole.items():
        assert_close(value, tail[name], atol=TOLERANCE, rtol=0)


def test_state_starts_as_zeros_and_keeps_its_shape() -> None:
    for level in LEVELS:
        engine = StreamingLevel(tiny_model(), level, GRID).eval()
        state = engine.initial_state(3)
        assert tuple(state) == engine.state_names
        assert all(float(value.abs().max()) == 0.0 for value in state.values())
        assert engine.input_names == tuple(engine.example())
        with torch.no_grad():
            out = dict(zip(engine.output_names, engine(*engine.example(3).values()), strict=True))
        assert {n: out[f"{n}_next"].shape for n in state} == {n: v.shape for n, v in state.items()}


def test_naming_an_engine_s_tensors_draws_no_random_number() -> None:
    model = tiny_model()
    before = torch.get_rng_state()
    engines: list[Any] = [StreamingLevel(model, level, GRID) for level in LEVELS]
    for engine in [*engines, StreamingLanguage(model, GRID)]:
        assert len({*engine.input_names, *engine.output_names}) > 10
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("change", [{"position": "window"}, {"level_order": "shuffled"}, {"hierarchy": False}])
def test_modes_that_cannot_run_incrementally_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="can run incrementally"):
        StreamingLevel(tiny_model(**change), 1, GRID)


@pytest.mark.parametrize("change", [{"intraced": False}, {"pool_gate": "log_alpha"}, {"intercad": False}])
def test_the_other_ablations_stream_as_the_full_model_does(change: dict[str, Any]) -> None:
    check_every_hop(fixed_model(**change), random_batch(2, hops=6))


@torch.no_grad()
def test_a_model_with_baselines_streams_as_it_encodes_the_prefix() -> None:
    model = tiny_model(baseline=True)
    for m in ("vision", "acoustic"):
        for index, layer in enumerate(model.baselines_of(m)):
            layer.shift.copy_(torch.linspace(-1, 1, layer.width) * (index + 1))
    check_every_hop(model, random_batch(2, hops=8))
    names = StreamingLevel(model, 2, GRID).state_names
    assert {"vision_baseline", "vision_baseline_steps", "acoustic_baseline"} < set(names)


def test_frozen_bases_are_orthonormal_for_every_level() -> None:
    model = tiny_model()
    for index in range(3):
        shared, private = frozen_bases(model, index)
        assert shared.dtype == torch.float64
        assert_close(shared.T @ shared, torch.eye(TINY.shared_rank).double(), atol=1e-12, rtol=0)
        for basis in private.values():
            assert_close(basis.T @ basis, torch.eye(TINY.private_rank).double(), atol=1e-12, rtol=0)
            assert float((shared.T @ basis).abs().max()) < 1e-12


def test_a_stream_without_a_modality_equals_the_offline_model_with_it_removed() -> None:
    model, batch = tiny_model(), random_batch(6, hops=WINDOW_HOPS)
    silent = changed(batch, acoustic_valid=torch.zeros_like(batch.acoustic_valid))
    *_, hop = Streamed(model, silent).hops()
    with torch.no_grad():
        offline = model(removed(batch, "acoustic")).levels
    for out, expected in zip(hop, offline, strict=True):
        for name in ("shared", "private", "present"):
            assert_close(out[name], getattr(expected, name), atol=TOLERANCE, rtol=0)
