"""A bundle scored after a history of its speakers: the same past as its checkpoint is given, through real streams."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clcr.network.model import CLCR, Usual
from clcr.scoring.clips import play
from clcr.scoring.histories import pasts
from clcr.training.cli import eval_main
from clcr.training.data.cache import Pack
from clcr.training.data.manifest import Row, write_manifest
from clcr.training.data.prepare import prepare
from clcr.training.evaluate import evaluate_subset
from clcr.training.feed import restrict
from clcr.training.histories import past_of_each
from clcr.training.recipe import subset_modalities
from clcr_export.graphs import round_pretrained
from clcr_export.writer import ExportOptions, export_bundle
from clcr_stream import Baseline, Engines
from clcr_stream.sources.base import Modality
from clcr_stream.sources.synthetic.person import PersonOptions
from clcr_stream.sources.synthetic.source import write_clip
from media import MediaSpec, write_media
from tiny_bundle import write_bundle
from tiny_checkpoint import write_tiny_checkpoint
from traced import exports_trace_once

HISTORY_S = 2.0
SUBSETS: dict[str, tuple[Modality, ...]] = {"V": ("vision",), "A": ("acoustic",), "VA": ("vision", "acoustic")}


def row(identity: str, media: str, speaker: str, start_s: float = 0.0, end_s: float = 0.0, label: str = "sad") -> Row:
    kind = "video" if media.endswith("mp4") else "audio"
    values = {"id": identity, "kind": kind, "media": media, "label": label, "split": "dev", "speaker": speaker}
    return Row(**values, text="", start_s=start_s, end_s=end_s)


CLIPS = [
    row("a1", "person.mp4", "ann", 0.0, 0.6),
    row("a2", "person.mp4", "ann", 0.6, 1.4, "happy"),
    row("a3", "tone.wav", "ann", 0.3, 1.5),
    row("b1", "person.mp4", "bob", 0.2, 1.0),
    row("a4", "person.mp4", "ann", 1.2, 2.2, "fear"),
    row("b2", "tone.wav", "bob", 0.0, 2.0, "happy"),
    row("c1", "person.mp4", "cleo", 0.0, 0.8),
    row("n1", "person.mp4", "", 0.0, 0.8),
    row("n2", "tone.wav", ""),
    row("b3", "grey.mp4", "bob", label="fear"),
]


@pytest.mark.parametrize("share", [1.0, 0.4])
def test_the_past_of_a_clip_is_that_of_an_evaluation_of_the_checkpoint(share: float) -> None:
    rng = np.random.default_rng(4)
    speakers = [str(name) for name in rng.choice(["a", "b", "c", ""], 40)]
    speakers[7] = "alone"
    mean = rng.normal(0, 1, (40, 2, 3, 8)).astype(np.float32)
    steps = rng.integers(0, 30, (40, 2)).astype(np.float32)
    most = {"vision": 45.0, "acoustic": 75.0}
    usable = (rng.random(40) < share).tolist()
    usual = Usual(torch.from_numpy(mean), torch.from_numpy(steps))
    wanted = past_of_each(usual, speakers, (45.0, 75.0), seed=3, usable=usable)
    left = [
        {m: Baseline(mean[clip, place], np.full(3, steps[clip, place])) for place, m in enumerate(most)}
        for clip in range(40)
    ]
    found = pasts(left, speakers, most, seed=3, usable=usable)
    for clip, past in enumerate(found):
        for place, modality in enumerate(most):
            count = float(wanted.steps[clip, place])
            assert (modality in past) == (count > 0)
            if count:
                assert past[modality].steps.tolist() == [count] * 3
                np.testing.assert_allclose(past[modality].mean, wanted.mean[clip, place].numpy(), atol=1e-5)
    assert found[7] == {} and any(found)
    assert all(not past for past, speaker in zip(found, speakers, strict=True) if not speaker)


@dataclass(frozen=True)
class Place:
    """A model with baselines, its bundle, and clips of several people."""

    model: CLCR
    bundle: Path
    engines: Engines
    media: Path
    manifest: Path
    pack: Pack


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("histories")
    write_clip(folder / "person.mp4", 2.4, PersonOptions(fps=15))
    write_media(folder / "grey.mp4", MediaSpec(seconds=1.0))
    write_media(folder / "tone.wav", MediaSpec(seconds=2.1, fps=0, audio_codec="pcm_s16le"))
    write_manifest(folder / "people.csv", CLIPS)
    model = write_tiny_checkpoint(folder / "checkpoint", baseline=True)
    with exports_trace_once(tmp_path_factory, proved=False):
        options = ExportOptions("tiny", proof_hops=10)
        export_bundle(folder / "checkpoint", folder / "bundle", options, lambda text: None)
    round_pretrained(model)  # as the bundle stores them
    tokenizer = folder / "checkpoint" / "tokenizer.json"
    pack = Pack(prepare(folder / "people.csv", folder, folder / "packs", tokenizer, progress=False), "dev")
    with Engines.load(folder / "bundle", backend="onnxruntime") as engines:
        yield Place(model, folder / "bundle", engines, folder, folder / "people.csv", pack)
    torch.set_num_threads(threads)


def streamed(place: Place, subset: str, history_s: float) -> dict[str, Any]:
    """The probabilities of every clip of a subset through the runtime, by the clip's id."""
    kept, answers = [], []
    for clip in CLIPS:
        answer = play(place.engines, clip, place.media, SUBSETS[subset])
        if answer is not None:
            kept.append(clip)
            answers.append(answer)
    most = {modality: history_s * rate for modality, rate in place.engines.baseline_rates.items()}
    past = pasts([answer.left for answer in answers], [clip.speaker for clip in kept], most)
    again = [play(place.engines, clip, place.media, SUBSETS[subset], one) for clip, one in zip(kept, past, strict=True)]
    return {clip.id: answer.probs for clip, answer in zip(kept, again, strict=True) if answer is not None}


@pytest.mark.slow
@pytest.mark.parametrize("subset", SUBSETS)
def test_after_a_history_a_bundle_answers_as_its_checkpoint_does(place: Place, subset: str) -> None:
    assert subset_modalities(subset) == SUBSETS[subset]
    pack = restrict(place.pack, subset)
    cold, warm = (
        evaluate_subset(place.model, pack, subset, history_s=history_s).probabilities()
        for history_s in (0.0, HISTORY_S)
    )
    found = streamed(place, subset, HISTORY_S)
    assert list(found) == [str(name) for name in pack.ids]
    assert np.abs(np.array(list(found.values())) - warm).max() < 1e-5
    changed = np.abs(warm - cold).max(axis=1) > 1e-4
    assert changed.any(), "a history does not change enough for the comparison to say much"
    speakers = [str(name) for name in pack.speakers]
    assert not any(change for change, speaker in zip(changed, speakers, strict=True) if speaker in ("", "cleo"))


@pytest.mark.slow
def test_the_command_scores_after_a_history_and_says_so(place: Place, tmp_path: Path) -> None:
    common = ["--bundle", str(place.bundle), "--manifest", str(place.manifest), "--media-root", str(place.media)]
    history = ["--history", str(HISTORY_S)]

    def scored(subsets: str, *more: str) -> dict[str, Any]:
        assert eval_main([*common, "--subsets", subsets, *more, "--json", str(tmp_path / "out.json")]) == 0
        return dict(json.loads((tmp_path / "out.json").read_text()))

    cold, warm, again = scored("A"), scored("V,A", *history), scored("A", *history)
    feared = scored("A", *history, "--history-of", "fear")
    assert (warm["history_of"], feared["history_of"]) == (None, "fear")
    assert [one["with_history"] for one in feared["sets"]] == [5]  # those of Ann's fear and of Bob's
    assert (cold["history_s"], warm["history_s"]) == (0.0, HISTORY_S)
    assert warm["sets"][1] == again["sets"][0]
    assert [one["with_history"] for one in warm["sets"]] == [4, 7]  # Bob's other film shows no face
    assert "with_history" not in cold["sets"][0]
    assert [one["n"] for one in (*warm["sets"], *cold["sets"])] == [7, 10, 10]
    assert warm["sets"][1]["ece"] != cold["sets"][0]["ece"]


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ("--history 20", "this bundle keeps no baseline of a person; leave --history out"),
        ("--history -1", "--history is -1.0; allowed"),
        ("--history-of neutral", "--history-of neutral goes with --history SECONDS"),
    ],
)
def test_a_history_that_cannot_be_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: str, text: str
) -> None:
    write_bundle(tmp_path / "bundle")
    write_media(tmp_path / "tone.wav", MediaSpec(seconds=1.0, fps=0, audio_codec="pcm_s16le"))
    write_manifest(tmp_path / "people.csv", [row("a", "tone.wav", "ann")])
    arguments = ["--bundle", str(tmp_path / "bundle"), "--manifest", str(tmp_path / "people.csv")]
    assert eval_main([*arguments, "--media-root", str(tmp_path), *flags.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert text in line
