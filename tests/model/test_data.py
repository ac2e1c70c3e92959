"""Manifests, packs, augmentation and mixtures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clcr.network.batch import Batch
from clcr.training.data import augment, decode
from clcr.training.data.augment import Augment, at_model_size
from clcr.training.data.cache import Clip, Pack
from clcr.training.data.decode import decode_audio, decode_frames, video_slot
from clcr.training.data.manifest import LABELS, Row, read_manifest, write_manifest
from clcr.training.data.mixture import Mixture, collate, evaluation_batches, last_window
from clcr.training.data.prepare import main, prepare
from clcr_stream.errors import BundleError, ConfigError, SourceError
from media import MediaSpec, write_media
from tiny_tokenizer import tokenizer_json

HEADER = "id,media,label,split,speaker,text,start_s,end_s,kind\n"
NO_CHANGE = Augment(
    flip_p=0, shift=0, scale=0, rotate_deg=0, brightness=0, contrast=0, grey_p=0, coarse_p=0, crop_hops=(30, 30),
    audio_crop_p=0, gain_db=0, noise_p=0, mask_p=0, token_dropout=0, modality_dropout=0,
)  # fmt: skip


def row(identity: str, label: str = "happy", kind: str = "text", media: str = "", split: str = "train") -> Row:
    return Row(identity, media, label, split, "s1", "very happy" if kind == "text" else "", 0.0, 0.0, kind)


def make_pack(folder: Path, rows: Sequence[Row], name: str = "toy") -> Path:
    """Prepare rows whose media lie in `folder`."""
    (folder / "tokenizer.json").write_bytes(tokenizer_json())
    write_manifest(folder / f"{name}.csv", rows)
    return prepare(folder / f"{name}.csv", folder, folder / "packs", folder / "tokenizer.json", progress=False)


def images(folder: Path, count: int = 12) -> None:
    levels = np.arange(count, dtype=np.uint8)[:, None, None] * 10
    np.savez(folder / "pack.npz", images=np.broadcast_to(levels, (count, 48, 48)))


def faces(folder: Path, labels: Sequence[str], name: str = "faces") -> Path:
    images(folder, len(labels))
    rows = [row(f"f{index}", label, "face", f"pack.npz#{index}") for index, label in enumerate(labels)]
    return make_pack(folder, rows, name)


def toy_clip(slots: int = 60, seconds: float = 4.0, words: int = 5) -> Clip:
    """Slot k's frame has level k; mel frame j holds j / 1000 in every band; the last third of the slots has no face."""
    present = np.arange(slots) < slots - slots // 3
    frames = np.broadcast_to(
        np.flatnonzero(present).astype(np.uint8)[:, None, None, None], (present.sum(), 112, 112, 3)
    )
    mel = np.arange(round(seconds * 100), dtype=np.float32)[:, None].repeat(64, 1) / np.float32(1000)
    return Clip(frames, present, mel, np.arange(2, 2 + words))


def same(one: Batch, other: Batch) -> bool:
    tensors = {name: value for name, value in vars(one).items() if value is not None}
    return all(torch.equal(value, vars(other)[name]) for name, value in tensors.items())


# Manifests


def test_a_manifest_survives_writing_and_reading(tmp_path: Path) -> None:
    rows = [
        Row("a", "", "sad", "dev", "s1", 'He said "no",\nthen left — ok', 0.0, 0.0, "text"),
        Row("b", "v/x.mp4", "", "train", "", "", 1.25, 3.5, "video"),
        Row("c", "p.npz#7", "-1.4", "test", "", "", 0.0, 0.0, "face"),
    ]
    assert write_manifest(tmp_path / "m.csv", rows) == 3
    assert read_manifest(tmp_path / "m.csv") == rows


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("a,,sad,train,,hi,,,words", "kind 'words' is not known; allowed is video"),
        ("a,,sad,valid,,hi,,,text", "split 'valid' is not known; allowed is train"),
        (",,sad,train,,hi,,,text", "the id is empty"),
        ("a,,sad,train,,hi,,,audio", "needs its media"),
        ("a,x.wav,sad,train,,hi,,,text", "a text row has no media"),
        ("a,/etc/passwd,sad,train,,,,,audio", "leaves the media root"),
        ("a,../x.wav,sad,train,,,,,audio", "leaves the media root"),
        ("a,x.wav,sad,train,,,3,2,audio", "end_s 2 is not after start_s 3"),
        ("a,x.wav,sad,train,,,one,,audio", "start_s 'one' is not a time"),
        ("a,x.wav,sad,train,,,nan,,audio", "start_s 'nan' is not a time"),
        ("a,,sad,train,,hi,,,text\na,,sad,train,,hi,,,text", "id 'a' occurs twice"),
    ],
)
def test_a_wrong_row_is_refused_with_what_is_allowed(tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "m.csv").write_text(HEADER + line + "\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_manifest(tmp_path / "m.csv")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_manifest_or_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such manifest"):
        read_manifest(tmp_path / "m.csv")
    (tmp_path / "m.csv").write_text("id,media\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="column 'label' is missing"):
        read_manifest(tmp_path / "m.csv")


# Decoding


def test_a_slot_takes_the_frame_nearest_to_its_time() -> None:
    half_ns = 1_000_000_000 // 30
    assert [video_slot(t) for t in (0, half_ns - 1, half_ns + 1, 66_666_667, 1_000_000_000)] == [0, 0, 1, 1, 15]


def test_frames_are_picked_first_in_slot_on_the_15_hz_grid(tmp_path: Path) -> None:
    path = write_media(tmp_path / "v.mp4", MediaSpec(seconds=2.0, fps=25))
    picked = [(slot, float(frame.mean()) / 2) for slot, frame in decode_frames(path, 0.0, 0.0)]
    first = {round(number * 0.6): number for number in reversed(range(50))}  # 25 Hz has no ties on the 15 Hz grid
    assert [slot for slot, _ in picked] == list(range(30))
    # Frame n decodes to the level 2n or 2n - 1, never to a neighbour's.
    assert all(-0.75 < number - first[slot] < 0.25 for slot, number in picked)


def test_a_slow_camera_leaves_slots_empty(tmp_path: Path) -> None:
    path = write_media(tmp_path / "v.mp4", MediaSpec(seconds=2.0, fps=5))
    assert [slot for slot, _ in decode_frames(path, 0.0, 0.0)] == list(range(0, 30, 3))


def test_a_span_of_a_file_starts_its_own_grid(tmp_path: Path) -> None:
    path = write_media(tmp_path / "v.mp4", MediaSpec(seconds=9.0, fps=15))
    frames = list(decode_frames(path, 7.0, 8.0))
    assert [slot for slot, _ in frames] == list(range(15))
    assert float(frames[0][1].mean()) == pytest.approx(2 * 105, abs=4)
    assert len(decode_audio(path, 7.0, 8.0)) == 16000


def test_sound_is_16_khz_mono_from_the_start_of_the_file(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.wav", MediaSpec(seconds=1.0, fps=0, rate_hz=48000, audio_codec="pcm_s16le"))
    samples = decode_audio(path, 0.0, 0.0)
    assert len(samples) == pytest.approx(16000, abs=40)
    spectrum = np.abs(np.fft.rfft(samples[:16000]))
    assert spectrum.argmax() == pytest.approx(440, abs=2)
    assert np.abs(samples).max() == pytest.approx(0.5, abs=0.05)


def test_a_span_of_sound_is_the_same_sound_as_in_the_whole(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.wav", MediaSpec(seconds=9.0, fps=0, audio_codec="pcm_s16le"))
    whole = decode_audio(path, 0.0, 0.0)
    np.testing.assert_array_equal(decode_audio(path, 6.1, 7.3), whole[97600:116800])


def test_a_file_without_the_stream_yields_nothing(tmp_path: Path) -> None:
    sound = write_media(tmp_path / "a.wav", MediaSpec(fps=0, audio_codec="pcm_s16le"))
    video = write_media(tmp_path / "v.mp4", MediaSpec(rate_hz=0))
    assert list(decode_frames(sound, 0.0, 0.0)) == []
    assert decode_audio(video, 0.0, 0.0).shape == (0,)


def test_an_image_number_beyond_the_pack_is_refused(tmp_path: Path) -> None:
    images(tmp_path)
    with pytest.raises(SourceError, match=r"0\.\.11"):
        decode.load_image(tmp_path, row("x", kind="face", media="pack.npz#12"))


# Packs


def test_a_pack_holds_every_kind_and_lists_what_does_not_decode(tmp_path: Path) -> None:
    images(tmp_path)
    write_media(tmp_path / "v.mp4", MediaSpec(seconds=2.0, fps=25))
    write_media(tmp_path / "a.wav", MediaSpec(seconds=1.0, fps=0, audio_codec="pcm_s16le"))
    (tmp_path / "broken.mp4").write_bytes(b"not a film")
    rows = [
        row("words"),
        row("face", "sad", "face", "pack.npz#3"),
        row("broken", "sad", "video", "broken.mp4"),
        row("film", "fear", "video", "v.mp4"),
        row("absent", "sad", "audio", "nowhere.wav"),
        row("sound", "anger", "audio", "a.wav"),
        row("other", "boredom", "audio", "a.wav"),
        row("later", "sad", "face", "pack.npz#4", split="dev"),
    ]
    folder = make_pack(tmp_path, rows)
    report = json.loads((folder / "pack.json").read_text())
    assert [line.split(":")[0] for line in report["skipped"]] == ["broken", "absent"]
    assert (report["items"], report["slots"], report["slots_with_face"]) == (6, 32, 2)
    pack = Pack(folder, "train")
    assert pack.ids.tolist() == ["words", "face", "film", "sound"]
    assert pack.targets.tolist() == [2, 1, 4, 5]
    words, face, film, sound = (pack.clip(index) for index in range(4))
    assert [clip.present for clip in (words, face, film, sound)] == [
        (False, False, True), (True, False, False), (False, True, False), (False, True, False),
    ]  # fmt: skip
    assert len(words.tokens) == 4
    assert face.frames.shape == (1, 48, 48)
    assert (face.frames == 30).all()
    assert len(film.slots) == 30
    assert not film.slots.any()
    assert len(sound.mel) == 100
    assert Pack(folder, "dev").ids.tolist() == ["later"]


def test_the_stored_mel_is_what_the_runtime_would_compute(tmp_path: Path) -> None:
    from clcr_stream.frontends.mel import log_mel

    path = write_media(tmp_path / "a.wav", MediaSpec(seconds=1.0, fps=0, audio_codec="pcm_s16le"))
    pack = Pack(make_pack(tmp_path, [row("sound", "sad", "audio", "a.wav")]), "train")
    expected = log_mel(np.concatenate([np.zeros(240, np.float32), decode_audio(path, 0.0, 0.0)]))
    np.testing.assert_allclose(pack.clip(0).mel, expected, atol=0.01)


def test_an_interrupted_preparation_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from clcr.training.data import prepare as module

    images(tmp_path)
    rows = [row(f"f{index}", "sad", "face", f"pack.npz#{index}") for index in range(12)]
    monkeypatch.setattr(module, "ROWS_PER_PART", 4)
    encoded: list[str] = []
    real = module.encode

    def stops_once(item: Row, *rest: object) -> module.Sample:
        if item.id == "f9" and "f9" not in encoded:
            encoded.append("f9")
            raise KeyboardInterrupt
        encoded.append(item.id)
        return real(item, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "encode", stops_once)
    with pytest.raises(KeyboardInterrupt):
        make_pack(tmp_path, rows)
    folder = make_pack(tmp_path, rows)
    assert encoded == [f"f{index}" for index in [*range(9), 9, *range(8, 12)]]
    assert Pack(folder, "train").ids.tolist() == [f"f{index}" for index in range(12)]
    assert not list(folder.glob("parts-*"))


def test_a_finished_pack_is_not_decoded_again_until_its_manifest_changes(tmp_path: Path) -> None:
    folder = faces(tmp_path, ["sad", "happy"])
    first = (folder / "items.npz").stat().st_mtime_ns
    faces(tmp_path, ["sad", "happy"])
    assert (folder / "items.npz").stat().st_mtime_ns == first
    faces(tmp_path, ["sad", "happy", "fear"])
    assert len(Pack(folder, "train")) == 3


def test_a_pack_that_is_missing_old_or_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"clcr\.training\.data\.prepare"):
        Pack(tmp_path / "none", "train")
    folder = faces(tmp_path, ["sad", "boredom"])
    with pytest.raises(ConfigError, match="no labelled sample in split 'dev'"):
        Pack(folder, "dev")
    (folder / "pack.json").write_text('{"format": 0}')
    with pytest.raises(ConfigError, match="pack format 0"):
        Pack(folder, "train")


def test_numbers_are_targets_for_regression(tmp_path: Path) -> None:
    pack = Pack(faces(tmp_path, ["-1.5", "happy", "2"]), "train", labels=None)
    assert pack.targets.tolist() == [-1.5, 2.0]
    assert pack.targets.dtype == np.float32


def test_the_command_prepares_and_reports_or_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faces(tmp_path, ["sad", "happy"])
    options = ["--media-root", str(tmp_path), "--cache", str(tmp_path / "c"), "--tokenizer"]
    manifest = str(tmp_path / "faces.csv")
    assert main([manifest, *options, str(tmp_path / "tokenizer.json")]) == 0
    assert "2 items, 0 skipped, a face in 100.0% of the frames" in capsys.readouterr().out
    assert main([manifest, *options, str(tmp_path / "nowhere.json")]) == BundleError.exit_code
    assert capsys.readouterr().err.count("\n") == 1


# Clips and batches


def test_a_span_keeps_video_and_sound_together() -> None:
    clip = toy_clip(60, 4.0).span(5, 15)
    assert clip.start_hop == 5
    assert clip.slots.tolist() == [True] * 25 + [False] * 5
    assert clip.frames[:, 0, 0, 0].tolist() == list(range(15, 40))
    assert clip.mel[:, 0].tolist() == pytest.approx(np.arange(100, 300) / 1000)


def test_the_last_window_is_the_newest_six_seconds() -> None:
    clip = last_window(toy_clip(150, 10.0))
    assert (len(clip.slots), len(clip.mel), clip.start_hop) == (90, 600, 20)
    short = toy_clip(20, 1.4)
    assert (len(last_window(short).slots), len(last_window(short).mel)) == (20, 140)


def test_a_batch_packs_frames_by_sample_and_time_and_pads_the_rest() -> None:
    first, second = toy_clip(6, 0.4, words=2), replace(toy_clip(3, 0.2, words=0), start_hop=7)
    batch = collate([first, first.only(["language"]), second], np.array([[10, 20, 33], [1, 2, 3]]))
    assert batch.frames.shape == (6, 3, 112, 112)
    assert batch.frames[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 0, 1]
    assert batch.vision_valid.tolist() == [[1, 1, 1, 1, 0, 0], [0] * 6, [1, 1, 0, 0, 0, 0]]
    assert int(batch.vision_valid.sum()) == len(batch.frames)
    assert batch.acoustic_valid.sum(dim=1).tolist() == [10, 0, 5]
    assert batch.mel.shape == (3, 40, 64)
    assert batch.token_valid.tolist() == [[1, 1], [1, 1], [0, 0]]
    assert batch.vision_step.tolist() == [6, 12, 39]
    assert batch.acoustic_step.tolist() == [10, 20, 65]
    assert batch.language_step.tolist() == [1, 2, 3]
    assert (batch.frames.dtype, batch.token_ids.dtype) == (torch.uint8, torch.int64)


def test_a_batch_of_words_alone_has_no_frames_and_no_sound() -> None:
    batch = collate([toy_clip().only(["language"])])
    assert batch.frames.shape == (0, 3, 112, 112)
    assert batch.vision_valid.shape == (1, 0)
    assert batch.mel.shape == (1, 0, 64)


# Augmentation


def test_an_augmentation_of_nothing_changes_nothing() -> None:
    clip = toy_clip(45, 3.0)
    changed = replace(NO_CHANGE, crop_hops=(15, 15))(clip, np.random.default_rng(5))
    np.testing.assert_array_equal(changed.frames, clip.frames)
    np.testing.assert_array_equal(changed.slots, clip.slots)
    np.testing.assert_array_equal(changed.tokens, clip.tokens)
    # Only the offset within a token moves, by less than 40 ms.
    assert 0 <= changed.mel[0, 0] <= 0.003
    assert len(changed.mel) % 4 == 0


def test_a_grey_face_without_changes_is_the_resized_one() -> None:
    face = np.random.default_rng(0).integers(0, 255, (1, 48, 48), np.uint8)
    face[0] = np.sort(face[0], axis=1)
    clip = Clip(face, np.ones(1, np.bool_), np.zeros((0, 64), np.float32), np.zeros(0, np.int64))
    changed = NO_CHANGE(clip, np.random.default_rng(0)).frames.astype(int)
    plain = at_model_size(clip).frames.astype(int)
    assert changed.shape == plain.shape == (1, 112, 112, 3)
    # warpAffine maps centre to centre as resize does; only the interpolation's rounding differs.
    assert np.abs(changed - plain).mean() < 2.0


def test_a_crop_takes_one_to_four_seconds_of_video_and_sound_from_one_place() -> None:
    augment = replace(NO_CHANGE, crop_hops=(5, 20))
    starts, lengths = set(), set()
    for seed in range(60):
        clip = augment(toy_clip(90, 6.0), np.random.default_rng(seed))
        lengths.add(clip.hops)
        starts.add(clip.start_hop)
        assert len(clip.slots) <= 60
        assert clip.mel[0, 0] == pytest.approx(clip.start_hop * 0.02, abs=0.0031)
        if len(clip.frames):
            assert clip.frames[0, 0, 0, 0] == clip.start_hop * 3
    assert min(lengths) == 5
    assert max(lengths) == 20
    assert len(starts) > 10


def test_sound_alone_is_never_longer_than_the_window() -> None:
    clip = toy_clip(0, 20.0)
    for seed in range(20):
        assert len(Augment()(clip, np.random.default_rng(seed)).mel) <= 600


def test_gain_noise_and_masks_respect_the_floor_and_silence_stays_silent() -> None:
    silence = replace(toy_clip(0, 3.0), mel=np.full((300, 64), np.log(1e-6), np.float32))
    for seed in range(20):
        out = replace(Augment(), noise_p=0.0)(silence, np.random.default_rng(seed)).mel
        np.testing.assert_allclose(out, np.log(1e-6), atol=1e-4)
        loud = Augment()(toy_clip(0, 3.0), np.random.default_rng(seed)).mel
        assert np.isfinite(loud).all()
        assert loud.min() >= np.log(1e-6) - 1e-4
        assert loud.dtype == np.float32


def test_a_room_adds_an_echo_that_decays_and_leaves_what_came_before_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augment, "ROOM_S", (0.5, 0.5))
    monkeypatch.setattr(augment, "ROOM_DIRECT_DB", (0.0, 0.0))
    floor = np.log(1e-6)
    mel = np.full((120, 80), floor, np.float32)
    mel[40:44] = 0.0  # a clap
    clip = replace(toy_clip(0, 1.2), mel=mel)
    room = replace(NO_CHANGE, warp=0, stretch=0, room_p=1.0)
    heard = room(clip, np.random.default_rng(0)).mel
    start = int(np.argmax(heard[:, 0] > floor))
    assert 36 <= start <= 40 and np.allclose(heard[:start], floor)
    lowest, highest = heard[start + 4 : start + 40, 0], heard[start + 4 : start + 40, -1]
    assert np.diff(lowest).max() < 0 and np.diff(highest).max() <= 0
    fall_db = -10.0 / np.log(10.0) * np.diff(lowest).mean()
    assert fall_db == pytest.approx(60.0 * 0.01 / 0.5, rel=1e-3)
    assert highest[-1] < lowest[-1]
    echo = np.exp(heard[start + 4 :, 0]).sum() + np.exp(heard[start : start + 4, 0] - 0.0).sum() - 4.0
    assert 10.0 * np.log10(echo / 4.0) == pytest.approx(0.0, abs=0.2)  # as much as the direct sound


def test_a_microphone_colours_smoothly_and_a_narrow_channel_loses_low_and_high_bands() -> None:
    clip = replace(toy_clip(0, 1.0), mel=np.zeros((100, 80), np.float32))
    plain = replace(NO_CHANGE, warp=0, stretch=0)
    for seed in range(20):
        coloured = replace(plain, colour_db=6.0)(clip, np.random.default_rng(seed)).mel[0] * (10.0 / np.log(10.0))
        assert np.ptp(coloured) > 0.3 and np.abs(coloured).max() <= 6.0 + 1e-4 and np.abs(np.diff(coloured)).max() < 1.0
        narrow = replace(plain, narrow_p=1.0)(clip, np.random.default_rng(seed)).mel[0]
        assert (narrow[8:56] == 0.0).all() and narrow.min() < -4.0


@given(st.floats(0.0, 1.0), st.integers(0, 2**32))
def test_silence_stays_silent_in_any_room_and_through_any_microphone(share: float, seed: int) -> None:
    silence = replace(toy_clip(0, 1.0), mel=np.full((100, 80), np.log(1e-6), np.float32))
    augment = replace(Augment(), noise_p=0.0, mask_p=0.0, room_p=share, colour_db=6.0, narrow_p=share)
    np.testing.assert_allclose(augment(silence, np.random.default_rng(seed)).mel, np.log(1e-6), atol=1e-4)


def test_dropping_modalities_never_drops_all() -> None:
    augment = replace(NO_CHANGE, modality_dropout=0.9)
    seen = {augment(toy_clip(), np.random.default_rng(seed)).present for seed in range(60)}
    assert (False, False, False) not in seen
    assert {(True, False, False), (False, True, False), (False, False, True)} <= seen


def test_dropped_words_leave_cls_and_sep_and_at_least_one_word() -> None:
    augment = replace(NO_CHANGE, token_dropout=0.95)
    for seed in range(30):
        tokens = augment(toy_clip(0, 0.0, words=8), np.random.default_rng(seed)).tokens
        assert (tokens[0], tokens[-1]) == (2, 9)
        assert len(tokens) >= 3


def test_the_default_augmentation_changes_faces_but_keeps_their_number() -> None:
    clip = toy_clip(15, 1.0)
    changed = replace(Augment(), token_dropout=0.5, crop_hops=(5, 5))(clip, np.random.default_rng(1))
    assert len(changed.frames) == changed.slots.sum()
    assert 0 < changed.slots.sum() < clip.slots.sum()


# Mixtures


@pytest.fixture
def packs(tmp_path: Path) -> list[Pack]:
    text = make_pack(tmp_path, [row(f"t{index}", "sad") for index in range(5)], "text")
    return [Pack(faces(tmp_path, ["sad"] * 9 + ["happy", "fear", "fear"]), "train"), Pack(text, "train")]


def test_a_step_gives_the_same_batch_in_any_order_and_another_step_another(packs: list[Pack]) -> None:
    counts = {"faces": 6, "text": 3}
    mixture = Mixture(packs, seed=1)
    fifth, targets = mixture.sample(counts, 5)
    mixture.sample(counts, 6)
    again, again_targets = Mixture(packs, seed=1).sample(counts, 5)
    assert same(fifth, again)
    assert torch.equal(targets, again_targets)
    assert not same(fifth, mixture.sample(counts, 6)[0])
    assert not same(fifth, Mixture(packs, seed=2).sample(counts, 5)[0])


def test_a_batch_has_the_asked_number_of_each_pack_in_order(packs: list[Pack]) -> None:
    batch, targets = Mixture(packs, seed=0).sample({"text": 3, "faces": 6}, 0)
    assert len(batch) == len(targets) == 9
    assert targets[:3].tolist() == [1, 1, 1]
    assert batch.vision_valid.sum(dim=1).tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1]
    assert int(batch.vision_step.max()) < 1 << 20
    assert torch.equal(batch.vision_step // 3, batch.acoustic_step // 5)


@pytest.mark.parametrize(("balance", "expected"), [(0.0, [0.75, 1 / 12, 1 / 6]), (1.0, [1 / 3, 1 / 3, 1 / 3])])
def test_balance_goes_from_even_samples_to_even_classes(
    packs: list[Pack], balance: float, expected: list[float]
) -> None:
    mixture = Mixture(packs, seed=0, balance=balance, augment=None)
    targets = torch.cat([mixture.sample({"faces": 200}, step)[1] for step in range(5)])
    shares = [float((targets == label).float().mean()) for label in (1, 2, 4)]
    assert shares == pytest.approx(list(expected), abs=0.05)


def test_batches_made_ahead_come_in_order_and_equal_the_plain_ones(packs: list[Pack]) -> None:
    mixture, counts = Mixture(packs, seed=3), {"faces": 4, "text": 2}
    ahead = list(mixture.batches(counts, range(10, 18), workers=3))
    assert len(ahead) == 8
    for step, (batch, targets) in zip(range(10, 18), ahead, strict=True):
        plain, plain_targets = mixture.sample(counts, step)
        assert same(batch, plain)
        assert torch.equal(targets, plain_targets)


def test_weights_split_a_batch_in_proportion(packs: list[Pack]) -> None:
    mixture = Mixture(packs, seed=0)
    drawn = [mixture.counts({"faces": 3.0, "text": 1.0}, 40, step) for step in range(50)]
    assert all(sum(counts.values()) == 40 for counts in drawn)
    assert np.mean([counts["faces"] for counts in drawn]) == pytest.approx(30, abs=1.5)


def test_an_unknown_pack_is_refused_with_those_there_are(packs: list[Pack]) -> None:
    with pytest.raises(ConfigError, match="no pack 'voices' in the mixture; it has faces, text"):
        Mixture(packs, seed=0).sample({"voices": 1}, 0)
    with pytest.raises(ConfigError, match="names must differ"):
        Mixture([packs[0], packs[0]], seed=0)


def test_evaluation_shows_every_sample_once_in_order_and_unchanged(packs: list[Pack]) -> None:
    batches = list(evaluation_batches(packs[0], 5))
    assert [rows.tolist() for _, _, rows in batches] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]
    assert torch.cat([targets for _, targets, _ in batches]).tolist() == packs[0].targets.tolist()
    levels = torch.cat([batch.frames for batch, _, _ in batches])[:, :, 50, 50]
    assert levels.tolist() == [[10 * index] * 3 for index in range(12)]


def test_evaluation_leaves_out_samples_without_the_modality(tmp_path: Path) -> None:
    images(tmp_path)
    rows = [row("a"), row("b", "sad", "face", "pack.npz#1"), row("c")]
    pack = Pack(make_pack(tmp_path, rows), "train")
    assert [rows.tolist() for _, _, rows in evaluation_batches(pack, 8, ["language"])] == [[0, 2]]
    assert [rows.tolist() for _, _, rows in evaluation_batches(pack, 8, ["vision"])] == [[1]]
    assert list(evaluation_batches(pack, 8, ["acoustic"])) == []
    with pytest.raises(ConfigError, match="allowed is a subset of vision"):
        next(evaluation_batches(pack, 8, ["smell"]))


# The sets under ../shared/data

SHARED = Path(__file__).parents[3] / "shared" / "data"


class SharedSets:
    """The sets' rows, each read once: their pictures are decoded on the way."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        made = import_module("data.manifests")
        self._sets: dict[str, tuple[Iterator[Row], Path]]
        with pytest.MonkeyPatch.context() as patch:
            # A recogniser's mistakes change no label and take 6 to 9 s a set (tests/tools/test_spoken.py).
            patch.setattr(made, "spoken", lambda rows: rows)
            self._sets = made.manifests(SHARED, folder)
        self._rows: dict[str, list[Row]] = {}
        self.names = tuple(name for name in self._sets if not name.endswith("_spoken"))

    def rows(self, name: str) -> list[Row]:
        if name not in self._rows:
            self._rows[name] = list(self._sets[name][0])
        return self._rows[name]

    def root(self, name: str) -> Path:
        return self._sets[name][1]


@pytest.fixture(scope="module")
def shared_sets(tmp_path_factory: pytest.TempPathFactory) -> SharedSets:
    return SharedSets(tmp_path_factory.mktemp("shared"))


@pytest.mark.data
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is absent")
def test_no_face_and_no_speaker_is_on_both_sides_of_a_cut(shared_sets: SharedSets) -> None:
    sets = {name: shared_sets.rows(name) for name in shared_sets.names}
    with np.load(shared_sets.folder / "fer2013.npz") as archive:
        faces_of_fer = archive["images"]
    sides: dict[str, set[bytes]] = {"train": set(), "dev": set()}
    for item in sets["fer2013"]:
        sides[item.split].add(faces_of_fer[int(item.media.partition("#")[2])].tobytes())
    assert not sides["train"] & sides["dev"]
    assert 0.04 < len(sides["dev"]) / len(sides["train"]) < 0.06
    split_of = {item.media: item.split for item in sets["fer2013"]}
    clear = [item for item in sets["ferplus"] if item.media in split_of]
    assert len(clear) > 15_000 and all(item.split == split_of[item.media] for item in clear)
    voices = ("nemo", "ased", "emogator", "emospeech")
    of_sentiment = ("mosi", "mosi_text", "goemotions_sentiment")
    films = ("javased_av", "mosi")
    for name in ("ckplus", "ravdess", "emodb", "javased_audio", "faces_people", "mosi_text", *films, *voices):
        speakers = {split: {item.speaker for item in sets[name] if item.split == split} for split in ("train", "dev")}
        assert speakers["dev"], name
        assert not speakers["train"] & speakers["dev"], name
    assert {item.label for name, rows in sets.items() if name not in of_sentiment for item in rows} == set(LABELS)
    assert all(-3 <= float(item.label) <= 3 for name in of_sentiment for item in sets[name])


@pytest.mark.data
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is absent")
def test_a_tile_of_a_contact_sheet_lands_at_its_place_in_the_pack(shared_sets: SharedSets) -> None:
    rows = shared_sets.rows("faces_people")
    assert {item.label for item in rows} == {"neutral", "happy", "surprise", "anger"}
    chosen = rows[-7]
    index = int(chosen.id.removeprefix("face"))
    sheet = cv2.imread(str(SHARED / f"faces_people/sheet_{index // 900:02d}.jpg"))
    assert sheet is not None
    top, left = index % 900 // 30 * 96, index % 30 * 96
    tile = cv2.cvtColor(sheet[top : top + 96, left : left + 96], cv2.COLOR_BGR2RGB)
    assert (decode.load_image(shared_sets.folder, chosen) == tile).all()


@pytest.mark.data
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is absent")
@pytest.mark.parametrize(
    ("name", "train", "dev", "absent"),
    [
        ("nemo", 3147, 539, set()),
        ("ased", 1745, 260, {"surprise"}),
        ("emogator", 3080, 479, set()),
        ("emospeech", 1528, 252, {"sad", "surprise"}),
    ],
)
def test_a_manifest_of_voices_has_every_clip_and_no_label_but_in_its_column(
    shared_sets: SharedSets, tmp_path: Path, name: str, train: int, dev: int, absent: set[str]
) -> None:
    rows, root = shared_sets.rows(name), shared_sets.root(name)
    write_manifest(tmp_path / f"{name}.csv", rows)
    items = read_manifest(tmp_path / f"{name}.csv")
    assert [sum(item.split == split for item in items) for split in ("train", "dev")] == [train, dev]
    assert {item.label for item in items} == set(LABELS) - absent
    assert all((root / item.media).is_file() for item in items)
    assert not any(label in f"{item.id}{item.media}{item.speaker}{item.text}" for item in items for label in LABELS)
