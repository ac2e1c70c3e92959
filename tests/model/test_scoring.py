"""A bundle scored through the runtime: its answers are the model's, its errors one line, its JSON complete."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clcr.network.model import CLCR
from clcr.scoring.clips import Answer, face_at, play
from clcr.scoring.scores import Answered, scores
from clcr.training.cli import eval_main
from clcr.training.data.augment import at_model_size
from clcr.training.data.cache import Clip, Pack
from clcr.training.data.films import HeldPack
from clcr.training.data.manifest import Row, write_manifest
from clcr.training.data.prepare import prepare
from clcr.training.evaluate import evaluate_subset
from clcr.training.feed import restrict
from clcr.training.recipe import SUBSETS, subset_modalities
from clcr_export.graphs import round_pretrained
from clcr_export.writer import ExportOptions, export_bundle
from clcr_stream import Engines, SourceError
from clcr_stream.sources.base import Modality
from clcr_stream.sources.synthetic.person import PersonOptions
from clcr_stream.sources.synthetic.source import write_clip
from media import MediaSpec, write_media
from tiny_bundle import LABELS, write_bundle
from tiny_checkpoint import write_tiny_checkpoint
from traced import exports_trace_once

ROOT = Path(__file__).parents[2]


def row(identity: str, kind: str = "audio", media: str = "", **more: Any) -> Row:
    values: dict[str, Any] = {"label": "happy", "split": "dev", "speaker": "", "text": "", "start_s": 0.0, "end_s": 0.0}
    return Row(id=identity, kind=kind, media=media, **(values | more))


def shown(subset: str) -> tuple[Modality, ...]:
    names: dict[str, Modality] = {"vision": "vision", "acoustic": "acoustic", "language": "language"}
    return tuple(names[name] for name in subset_modalities(subset))


def answer(engines: Engines, item: Row, root: Path, subset: str) -> Answer:
    found = play(engines, item, root, shown(subset))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scoring") / "bundle"
    write_bundle(folder)
    return folder


@pytest.fixture(scope="module")
def engines(bundle: Path) -> Iterator[Engines]:
    with Engines.load(bundle, backend="onnxruntime") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """person.mp4 (a face, sound), grey.mp4 (no face, sound), tone.wav, faces.npz, person.png, broken.mp4."""
    import av
    import cv2

    folder = tmp_path_factory.mktemp("media")
    write_clip(folder / "person.mp4", 2.5, PersonOptions(fps=20))  # of four pictures one is between two slots
    write_media(folder / "grey.mp4", MediaSpec(seconds=1.5))
    write_media(folder / "tone.wav", MediaSpec(seconds=2.1, fps=0, audio_codec="pcm_s16le"))
    write_media(folder / "silent.mp4", MediaSpec(seconds=1.0, rate_hz=0))
    images = np.random.default_rng(0).integers(0, 255, (3, 48, 48)).astype(np.uint8)
    np.savez(folder / "faces.npz", images=images)
    with av.open(str(folder / "person.mp4")) as container:
        frame = next(container.decode(container.streams.video[0])).to_ndarray(format="bgr24")
    cv2.imwrite(str(folder / "person.png"), frame)
    (folder / "broken.mp4").write_bytes(b"not a film" * 100)
    return folder


# Against the model


@dataclass(frozen=True)
class Pair:
    """What the runtime and the trained model said of the same clips."""

    streamed: np.ndarray[Any, Any]
    modelled: np.ndarray[Any, Any]
    unseen: tuple[int, int]


CLIPS = [
    row("film", "video", "person.mp4"),
    row("film with words", "video", "person.mp4", text="i am so glad"),
    row("middle of a film", "video", "person.mp4", start_s=0.5, end_s=1.7, text="hello there"),
    row("nobody", "video", "grey.mp4"),
    row("tone", "audio", "tone.wav"),
    row("tone with words", "audio", "tone.wav", text="good morning"),
    row("end of the tone", "audio", "tone.wav", start_s=1.0),
    row("face", "face", "faces.npz#1"),
    row("photograph", "image", "person.png"),
    row("words", "text", text="so good to see you there"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[CLCR, Engines, Path]]:
    """A narrow model with random weights, its exported bundle's engines, and its tokenizer."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("trained")
    model = write_tiny_checkpoint(folder / "checkpoint")
    with exports_trace_once(tmp_path_factory, proved=False):
        options = ExportOptions("tiny", proof_hops=10)
        export_bundle(folder / "checkpoint", folder / "bundle", options, lambda text: None)
    round_pretrained(model)  # as the bundle stores them
    with Engines.load(folder / "bundle", backend="onnxruntime") as engines:
        yield model, engines, folder / "checkpoint" / "tokenizer.json"
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pairs(
    tmp_path_factory: pytest.TempPathFactory, media: Path, trained: tuple[CLCR, Engines, Path]
) -> dict[str, Pair]:
    """Each subset of CLIPS through a checkpoint's exported bundle and through the checkpoint itself."""
    folder = tmp_path_factory.mktemp("pairs")
    model, engines, tokenizer = trained
    write_manifest(folder / "clips.csv", CLIPS)
    whole = Pack(prepare(folder / "clips.csv", media, folder / "packs", tokenizer, progress=False), "dev")
    found: dict[str, Pair] = {}
    for subset in SUBSETS:
        pack = restrict(whole, subset)
        predicted = evaluate_subset(model, pack, subset)
        items = {item.id: item for item in CLIPS}
        streamed = [answer(engines, items[str(name)], media, subset) for name in pack.ids]
        absent = [item for item in CLIPS if item.id not in set(pack.ids)]
        assert all(play(engines, item, media, shown(subset)) is None for item in absent)
        found[subset] = Pair(
            np.array([one.probs for one in streamed]),
            predicted.probabilities(),
            (sum(not one.seen for one in streamed), predicted.unseen),
        )
    return found


@pytest.mark.slow
@pytest.mark.parametrize("subset", SUBSETS)
def test_a_bundle_answers_as_its_checkpoint_does_on_every_kind_of_clip(pairs: dict[str, Pair], subset: str) -> None:
    pair = pairs[subset]
    assert np.abs(pair.streamed - pair.modelled).max() < 1e-5
    assert pair.unseen[0] == pair.unseen[1]
    assert np.ptp(pair.modelled, axis=0).max() > 2e-3, "the clips do not differ enough for the comparison to say much"


@pytest.mark.slow
def test_a_face_shown_for_seconds_is_answered_as_the_checkpoint_answers_its_film(
    trained: tuple[CLCR, Engines, Path], media: Path, tmp_path: Path
) -> None:
    model, engines, tokenizer = trained
    face = row("face", "face", "faces.npz#1")
    write_manifest(tmp_path / "face.csv", [face])
    pack = Pack(prepare(tmp_path / "face.csv", media, tmp_path / "packs", tokenizer, progress=False), "dev")
    once, film = (evaluate_subset(model, one, "V").probabilities() for one in (pack, HeldPack(pack, 21)))
    shown_for = play(engines, face, media, shown("V"), hold_s=1.4)
    assert shown_for is not None and len(shown_for.hops) == 7
    assert np.abs(np.array(shown_for.probs) - film).max() < 1e-5
    assert np.abs(film - once).max() > 1e-3


# What is shown


def test_a_face_crop_is_not_searched_and_is_scaled_as_for_training(engines: Engines, media: Path) -> None:
    with np.load(media / "faces.npz") as archive:
        crop = archive["images"][1]
    none = np.zeros((0, 64), np.float32)
    stored = Clip(crop[None], np.ones(1, np.bool_), none, np.zeros(0, np.int64))
    assert (face_at(crop, 112) == at_model_size(stored).frames[0]).all()
    assert answer(engines, row("face", "face", "faces.npz#1"), media, "V").seen
    # The face finder sees nothing in the same picture: it is noise.
    assert not answer(engines, row("image", "image", "faces.npz#1"), media, "V").seen


@pytest.mark.slow
def test_a_subset_shows_nothing_of_the_other_modalities(trained: tuple[CLCR, Engines, Path], media: Path) -> None:
    _, engines, _ = trained
    film = row("film", "video", "person.mp4", text="hello there")
    silent, speechless = replace(film, text=""), replace(film, kind="audio", text="")
    answers = {subset: answer(engines, film, media, subset) for subset in SUBSETS}
    assert answers["A"] == answer(engines, speechless, media, "A")
    assert answers["VA"] == answer(engines, silent, media, "VA")
    assert len({one.probs for one in answers.values()}) == len(SUBSETS)


@pytest.mark.slow
def test_words_arrive_with_the_clip_s_end_and_not_before(trained: tuple[CLCR, Engines, Path], media: Path) -> None:
    _, engines, _ = trained
    for name, kind, subset in (("person.mp4", "video", "VA"), ("silent.mp4", "video", "V"), ("tone.wav", "audio", "A")):
        item = row(name, kind, name, text="so glad to see you there good morning")
        without, within = answer(engines, item, media, subset), answer(engines, item, media, f"{subset}L")
        assert len(without.hops) == len(within.hops)
        assert within.hops[:-1] == without.hops[:-1]
        assert np.abs(np.subtract(within.probs, without.probs)).max() > 1e-4


def test_a_cut_is_what_a_file_of_its_own_would_be(engines: Engines, media: Path, tmp_path: Path) -> None:
    import av

    with av.open(str(media / "tone.wav")) as container:
        samples = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    with av.open(str(tmp_path / "part.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None, 8000:24_000], format="s16", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
    part = answer(engines, row("part", media="part.wav"), tmp_path, "A")
    assert answer(engines, row("cut", media="tone.wav", start_s=0.5, end_s=1.5), media, "A") == part
    assert len(part.hops) == 5
    with pytest.raises(SourceError, match="no picture and no sound between"):
        play(engines, row("late", media="tone.wav", start_s=50.0), media, shown("A"))


def test_a_cut_far_into_a_file_is_what_the_same_cut_gives_without_seeking(
    engines: Engines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clcr_stream.sources import media as reading

    write_clip(tmp_path / "long.mp4", 8.2, PersonOptions(fps=10))
    item = row("cut", "video", "long.mp4", start_s=6.3, end_s=8.0)
    assert item.start_s > reading.SEEK_FROM_NS / 1e9
    sought = answer(engines, item, tmp_path, "VA")
    monkeypatch.setattr(reading, "SEEK_FROM_NS", 10**15)
    assert answer(engines, item, tmp_path, "VA") == sought
    assert sought.seen and len(sought.hops) == 9


def test_sound_that_goes_on_long_after_the_picture_is_heard_to_its_end(engines: Engines, tmp_path: Path) -> None:
    write_media(tmp_path / "uneven.mp4", MediaSpec(seconds=1.0, audio_seconds=12.0))
    found = answer(engines, row("uneven", "video", "uneven.mp4"), tmp_path, "VA")
    assert len(found.hops) == pytest.approx(60, abs=1)
    assert found.seen


# The figures


def answered(hops: list[tuple[int, ...]], targets: list[str], kind: str = "audio") -> Answered:
    answers = [Answer(tuple(np.eye(6)[max(0, one[-1])]), one[-1] >= 0, one, 0.2) for one in hops]
    rows = [row(str(number), kind, "x", label=label, speaker="ab"[number % 2]) for number, label in enumerate(targets)]
    return Answered(rows, answers, tuple(LABELS))


def test_the_time_to_the_first_right_label_and_the_flips_follow_from_the_hops() -> None:
    hops = [(-1, 2, 2, 0, 2), (0, 0, 2), (1, 1, 1, 1)]
    found = scores(answered(hops, ["happy", "happy", "happy"]))
    assert found["time_to_first_correct_s"] == pytest.approx(0.5)  # the median of 0.4 and 0.6
    assert found["never_correct"] == pytest.approx(1 / 3)
    assert found["flips_per_s"] == pytest.approx(3 / (0.2 * (3 + 2 + 3)))
    still = scores(answered([(2,), (1,)], ["happy", "sad"], "face"))
    assert (still["time_to_first_correct_s"], still["never_correct"], still["flips_per_s"]) == (None, None, None)


def test_scores_are_given_by_class_and_by_speaker_and_count_the_unseen() -> None:
    found = scores(answered([(2,), (2,), (1,), (-1,)], ["happy", "sad", "sad", "neutral"]))
    assert (found["n"], found["accuracy"], found["unseen"]) == (4, 0.75, 1)
    assert found["per_class"]["happy"] == {"n": 1, "precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3)}
    assert found["per_class"]["fear"] == {"n": 0, "precision": None, "recall": None, "f1": None}
    assert found["per_speaker"]["a"] == {"n": 2, "accuracy": 1.0, "macro_f1": 1.0}
    assert found["per_speaker"]["b"]["accuracy"] == 0.5
    for intervals in (found["intervals"], found["intervals_by_speaker"]):
        assert all(low <= found[name] <= high for name, (low, high) in intervals.items())
    assert scores(answered([(2,)], ["happy"]))["intervals_by_speaker"] is None


# The command


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "people.csv"
    rows = [
        row("a", "video", "person.mp4", speaker="ann", label="sad"),
        row("b", "video", "grey.mp4", speaker="bob"),
        row("c", "audio", "tone.wav", speaker="bob", label="fear"),
        row("d", "video", "broken.mp4", speaker="bob"),
        row("e", "video", "silent.mp4", speaker="ann"),
        row("f", "text", text="good morning", label="neutral"),
        row("g", "audio", "tone.wav", label=""),
        row("h", "audio", "tone.wav", split="train"),
    ]
    write_manifest(path, rows)
    return path


def run(bundle: Path, manifest: Path, media: Path, *more: str) -> int:
    return eval_main(["--bundle", str(bundle), "--manifest", str(manifest), "--media-root", str(media), *more])


def test_the_command_scores_a_bundle_and_tells_of_every_clip_that_it_could_not(
    bundle: Path, manifest: Path, media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, plots = tmp_path / "made" / "scores.json", tmp_path / "plots"
    assert run(bundle, manifest, media, "--json", str(out), "--plots", str(plots)) == 0
    shown, progress = capsys.readouterr()
    written = json.loads(out.read_text(encoding="utf-8"))
    assert [(one["name"], one["subset"], one["n"]) for one in written["sets"]] == [
        ("people", "V", 3),
        ("people", "A", 3),
        ("people", "L", 1),
        ("people", "VA", 2),
    ]
    vision, sound, words, both = written["sets"]
    assert [one["id"] for one in vision["failed"]] == [one["id"] for one in both["failed"]] == ["d"]
    assert "not a media file" in vision["failed"][0]["reason"] and str(media) not in vision["failed"][0]["reason"]
    assert (vision["unseen"], sound["unseen"], words["unseen"]) == (2, 0, 0)
    assert (vision["without_modality"], sound["without_modality"], both["without_modality"]) == (2, 2, 3)
    assert sum(map(sum, both["confusion"])) == both["n"]
    assert both["per_speaker"].keys() == {"ann", "bob"} and vision["unlabelled"] == 1
    assert len(written["bundle"]["sha256"]) == 64 and written["bundle"]["backend"] == "onnxruntime"
    assert written["split"] == "dev" and written["labels"] == list(LABELS)
    assert "people/VA" in shown and f"{both['macro_f1']:.3f}" in shown
    assert "people/VA: 6 of 6 clips, " in progress and "clips/s" in progress
    assert (plots / "people" / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert run(bundle, manifest, media, "--json", str(tmp_path / "again.json")) == 0
    assert (tmp_path / "again.json").read_bytes() == out.read_bytes()


def test_several_manifests_are_several_sets_and_a_limit_takes_clips_evenly(
    bundle: Path, media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        write_manifest(tmp_path / f"{name}.csv", [row(f"{n}", "face", f"faces.npz#{n % 3}") for n in range(9)])
    more = ["--manifest", str(tmp_path / "two.csv"), "--limit", "3", "--json", str(tmp_path / "out.json")]
    assert run(bundle, tmp_path / "one.csv", media, *more) == 0
    assert [(one["name"], one["n"]) for one in json.loads((tmp_path / "out.json").read_text())["sets"]] == [
        ("one", 3),
        ("two", 3),
    ]


def test_subsets_that_no_clip_of_a_manifest_was_recorded_with_are_left_out_and_told(
    bundle: Path, media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_manifest(tmp_path / "voices.csv", [row("a", "audio", "tone.wav"), row("b", "audio", "tone.wav")])
    write_manifest(tmp_path / "films.csv", [row("c", "video", "broken.mp4")])
    more = ["--manifest", str(tmp_path / "films.csv"), "--subsets", "V,A", "--json", str(tmp_path / "out.json")]
    assert run(bundle, tmp_path / "voices.csv", media, *more) == 0
    shown, progress = capsys.readouterr()
    sets = json.loads((tmp_path / "out.json").read_text())["sets"]
    assert [(one["name"], one["subset"], one["n"]) for one in sets] == [
        ("voices", "A", 2),
        ("films", "V", 0),
        ("films", "A", 0),
    ]
    assert sets[1]["accuracy"] is None and sets[1]["failed"][0]["id"] == "c"
    assert "voices: no clip was recorded with V: left out" in progress
    assert "no clip could be scored" in shown


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--split", "test"], "people.csv: no labelled clip in split 'test'; give another --split"),
        (["--split", "all"], "--split 'all' is not known; allowed: train, dev, test"),
        (["--subsets", "AV"], "subset 'AV'; allowed: all, or a list of V, A, L, VA, VL, AL, VAL"),
        (["--subsets", "VAL,VL"], "people.csv: no clip was recorded with VAL, VL; possible are V, A, L, VA"),
        (["--limit", "0"], "--limit is 0; allowed is 1 or more"),
        (["--media-root", "/a", "/b"], "3 --media-root for 1 manifests; give one, or one for each"),
        (["--manifest", "people.csv"], "two have the same name; rename one"),
        (["--pack", "x"], "--pack goes with a checkpoint only; see clcr-eval --help"),
        (["--fit-temperature"], "--fit-temperature goes with a checkpoint only; see clcr-eval --help"),
    ],
)
def test_a_wrong_flag_is_one_line_that_says_what_is_allowed(
    bundle: Path, manifest: Path, media: Path, more: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(bundle, manifest, media, *more) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("clcr-eval: ") and text in line


def test_a_bundle_for_regression_is_scored_by_its_values(
    tmp_path: Path, media: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_bundle(tmp_path / "regression", "regression")
    labels = ("2.5", "-1", "0.5")
    rows = [row(f"c{number}", "audio", "tone.wav", label=label) for number, label in enumerate(labels)]
    write_manifest(tmp_path / "values.csv", rows)
    assert run(tmp_path / "regression", tmp_path / "values.csv", media, "--json", str(tmp_path / "out.json")) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split()[4:] == ["Acc-2", "Acc-7", "MAE", "Corr"] and table[1].startswith("values/A")
    (scored,) = json.loads((tmp_path / "out.json").read_text())["sets"]
    with Engines.load(tmp_path / "regression", backend="onnxruntime") as engines:
        answer = play(engines, rows[0], media, ("acoustic",))
    assert answer is not None and answer.seen and answer.probs == () and set(answer.hops) == {-1}
    errors = [abs(answer.value - float(label)) for label in labels]  # the same sound each time
    assert scored["n"] == 3 and scored["mae"] == pytest.approx(sum(errors) / 3, abs=1e-5)
    assert scored["intervals"]["mae"] == pytest.approx([min(errors), max(errors)], abs=1e-5)
    capsys.readouterr()
    for flag in (["--by-time"], ["--joined", "2"], ["--plots", str(tmp_path)]):
        assert run(tmp_path / "regression", tmp_path / "values.csv", media, *flag) == 2
        assert f"{flag[0]} is of labels, and a bundle for regression has none" in capsys.readouterr().err


def test_what_is_missing_or_does_not_fit_the_bundle_is_one_line(
    bundle: Path, manifest: Path, media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_bundle(tmp_path / "regression", "regression")
    write_manifest(tmp_path / "other.csv", [row("x", "audio", "tone.wav", label="bored")])
    codes = [
        run(bundle, manifest, tmp_path),
        run(bundle, tmp_path / "other.csv", media),
        run(tmp_path / "regression", manifest, media),
        run(bundle, tmp_path / "none.csv", media),
        run(tmp_path / "nothing", manifest, media),
        run(bundle, manifest, media, "--json", str(media / "tone.wav" / "out.json")),
        eval_main(["--bundle", str(bundle), "checkpoint", "--manifest", "m.csv", "--media-root", "."]),
        eval_main(["--bundle", str(bundle)]),
        eval_main(["checkpoint"]),
        eval_main(["checkpoint", "--pack", "p", "--limit", "3"]),
    ]
    lines = capsys.readouterr().err.splitlines()
    assert codes == [2, 2, 2, 2, 4, 7, 2, 2, 2, 2]
    expected = [
        f"5 of 6 media files are missing under {tmp_path}, the first is person.mp4; give the right --media-root",
        f"label 'bored' of x is none of the bundle's: {', '.join(LABELS)}",
        "is none of the bundle's: a number, as of every regression",
        "no such manifest",
        "nothing",
        "cannot be made",
        "give one of them",
        "--bundle needs --manifest M.csv and --media-root DIR",
        "give CHECKPOINT and --pack, or --bundle",
        "--limit goes with --bundle only",
    ]
    assert len(lines) == len(expected)
    assert all(text in line for text, line in zip(expected, lines, strict=True)), lines


def test_scoring_a_bundle_loads_no_torch_and_ends_at_ctrl_c_in_one_line(
    bundle: Path, manifest: Path, media: Path
) -> None:
    code = """
        import signal, sys
        from clcr.training.cli import eval_main
        if sys.argv[1] == "interrupted":
            import clcr.scoring.bundle
            clcr.scoring.bundle.play = lambda *_: signal.raise_signal(signal.SIGINT)
        status = eval_main(sys.argv[2:])
        print(status, "torch" in sys.modules)
    """
    arguments = ["--bundle", str(bundle), "--manifest", str(manifest), "--media-root", str(media), "--subsets", "A"]
    path = os.pathsep.join(str(ROOT / folder) for folder in ("model", "runtime"))
    for how, expected, told in (("", "0 False", "6 of 6 clips"), ("interrupted", "130 False", "interrupted")):
        command = [sys.executable, "-c", "\n".join(line[8:] for line in code.splitlines()), how, *arguments]
        environment = os.environ | {"PYTHONPATH": path}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
        assert done.stdout.splitlines()[-1] == expected, done.stderr
        assert done.stderr.splitlines()[-1].find(told) >= 0 and "Traceback" not in done.stderr
