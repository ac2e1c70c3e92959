"""A bundle scored on manifests: the whole runtime, one clip after the other, as fast as the machine goes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from clcr.scoring.clips import Answer, play, recordable
from clcr.scoring.histories import pasts
from clcr.scoring.joined import score_joined, sessions
from clcr.scoring.people import group_scores, read_people
from clcr.scoring.report import draw
from clcr.scoring.scores import SCORES, Answered, scores, stretches
from clcr.scoring.times import by_time
from clcr.training import metrics
from clcr.training.data.manifest import SPLITS, Row, evenly, read_manifest
from clcr.training.recipe import SUBSETS, subset_modalities
from clcr_stream import Baseline, ConfigError, Engines, SourceError
from clcr_stream.sources.base import Modality

Say = Callable[[str, bool], object]  # a line about how far it is, and whether a set has ended with it


@dataclass(frozen=True)
class BundleRequest:
    """What to score: manifests with their media roots (one for all, or one each), and which of their clips.

    subsets: "all" or a list such as "V,A,VA". limit: at most so many clips of each manifest, taken evenly. history_s:
    how much of its speaker's other clips of the set comes before each clip, for a bundle with baselines; history_of: of
    those with this label alone. hold_s: how long a photograph or face is shown; 0: once. by_time: scores by the seconds
    heard and seen too. joined_s: also clips joined in one stream, so much of one emotion and then of another; 0: none.
    people: a file of the speakers' groups.
    """

    bundle: Path
    manifests: tuple[Path, ...]
    media_roots: tuple[Path, ...]
    split: str = "dev"
    subsets: str = "all"
    limit: int | None = None
    backend: str = "auto"
    history_s: float = 0.0
    history_of: str | None = None
    hold_s: float = 0.0
    by_time: bool = False
    joined_s: float = 0.0
    people: Path | None = None


@dataclass(frozen=True)
class ClipSet:
    """The clips of one manifest that are to be scored."""

    manifest: Path
    media_root: Path
    rows: tuple[Row, ...]
    unlabelled: int  # rows of the split without a label: left out
    everyone: tuple[Row, ...]  # all with a label, before they were thinned: joined clips are made of these

    @property
    def name(self) -> str:
        """What it is called in reports."""
        return self.manifest.stem


def score_bundle(request: BundleRequest, say: Say, pictures: Path | None = None) -> dict[str, Any]:
    """Score every manifest and subset; `sets` of the result is in the order of manifests, then of subsets.

    `say` hears how far it is; PNGs of each set go to `pictures`/NAME. Raises ConfigError, BundleError, BackendError.
    """
    _check(request)
    with Engines.load(request.bundle, backend=request.backend) as engines:
        if not engines.labels:
            _check_of_values(request, pictures)
        if request.history_s and not engines.baseline_rates:
            raise ConfigError(f"{request.bundle}: this bundle keeps no baseline of a person; leave --history out")
        if request.history_of is not None and request.history_of not in engines.labels:
            known = ", ".join(engines.labels)
            raise ConfigError(f"--history-of {request.history_of}: allowed are the bundle's labels: {known}")
        roots = request.media_roots * (len(request.manifests) if len(request.media_roots) == 1 else 1)
        chosen = [
            clip_set(manifest, root, request, engines.labels)
            for manifest, root in zip(request.manifests, roots, strict=True)
        ]
        sets: list[dict[str, Any]] = []
        for clips, subsets in [(clips, _subsets(clips, request.subsets, say)) for clips in chosen]:
            answered: dict[str, Answered] = {}
            for subset in subsets:
                sets.append(_score_set(engines, clips, subset, request, _Progress(say), answered))
            if pictures is not None:
                draw(pictures / clips.name, answered, engines.labels)
        return {
            "bundle": _identity(engines, request.bundle),
            "labels": list(engines.labels),
            "split": request.split,
            "subsets": request.subsets,
            "limit": request.limit,
            "history_s": request.history_s,
            "history_of": request.history_of,
            "hold_s": request.hold_s,
            "joined_s": request.joined_s,
            "sets": sets,
        }


def clip_set(manifest: Path, media_root: Path, request: BundleRequest, labels: Sequence[str]) -> ClipSet:
    """The clips of a manifest's split, thinned to the limit. Raises ConfigError for what cannot be scored."""
    rows = [row for row in read_manifest(manifest) if row.split == request.split]
    labelled = [row for row in rows if row.label]
    if not labelled:
        raise ConfigError(f"{manifest}: no labelled clip in split {request.split!r}; give another --split")
    for row in labelled:
        if not _fits(row.label, labels):
            known = ", ".join(labels) or "a number, as of every regression"
            raise ConfigError(f"{manifest}: label {row.label!r} of {row.id} is none of the bundle's: {known}")
    kept = evenly(labelled, request.limit)
    missing = [row.media for row in kept if row.media and not (media_root / row.media.partition("#")[0]).is_file()]
    if missing:
        raise ConfigError(
            f"{manifest}: {len(missing)} of {len(kept)} media files are missing under {media_root}, the first is "
            f"{missing[0]}; give the right --media-root"
        )
    return ClipSet(manifest, media_root, tuple(kept), len(rows) - len(labelled), tuple(labelled))


def _fits(label: str, labels: Sequence[str]) -> bool:
    """Whether the bundle has this label, or of a regression whether it is a number."""
    if labels:
        return label in labels
    try:
        return math.isfinite(float(label))
    except ValueError:
        return False


def _check_of_values(request: BundleRequest, pictures: Path | None) -> None:
    """ConfigError for what only a bundle with labels has."""
    asked = {
        "--history-of": request.history_of is not None,
        "--by-time": request.by_time,
        "--joined": request.joined_s > 0,
        "--people": request.people is not None,
        "--plots": pictures is not None,
    }
    for flag in [flag for flag, given in asked.items() if given]:
        raise ConfigError(f"{request.bundle}: {flag} is of labels, and a bundle for regression has none; leave it out")


def _check(request: BundleRequest) -> None:
    if request.split not in SPLITS:
        raise ConfigError(f"--split {request.split!r} is not known; allowed: {', '.join(SPLITS)}")
    if not 0 <= request.history_s < math.inf:
        raise ConfigError(f"--history is {request.history_s}; allowed are seconds above 0")
    for name, seconds in (("hold", request.hold_s), ("joined", request.joined_s)):
        if not 0 <= seconds < math.inf:
            raise ConfigError(f"--{name} is {seconds}; allowed are seconds above 0")
    if request.limit is not None and request.limit < 1:
        raise ConfigError(f"--limit is {request.limit}; allowed is 1 or more")
    if len(request.media_roots) not in (1, len(request.manifests)):
        raise ConfigError(
            f"{len(request.media_roots)} --media-root for {len(request.manifests)} manifests; give one, or one for each"
        )
    if request.people is not None:
        read_people(request.people, "")
    names = [manifest.stem for manifest in request.manifests]
    if len(set(names)) < len(names):
        raise ConfigError(f"manifests {', '.join(names)}: two have the same name; rename one")
    for subset in [] if request.subsets == "all" else request.subsets.split(","):
        if subset not in SUBSETS:
            raise ConfigError(f"subset {subset!r}; allowed: all, or a list of {', '.join(SUBSETS)}")


def _subsets(clips: ClipSet, wanted: str, say: Say) -> list[str]:
    """Of the subsets asked for, those that some clip can have been recorded with. ConfigError when there is none."""
    kinds = [set(recordable(row)) for row in clips.rows]
    possible = [subset for subset in SUBSETS if any(set(subset_modalities(subset)) <= kind for kind in kinds)]
    asked = possible if wanted == "all" else wanted.split(",")
    left_out = ", ".join(subset for subset in asked if subset not in possible)
    kept = [subset for subset in asked if subset in possible]
    if not kept:
        raise ConfigError(
            f"{clips.manifest}: no clip was recorded with {left_out}; possible are {', '.join(possible) or 'none'}"
        )
    if left_out:
        say(f"{clips.name}: no clip was recorded with {left_out}: left out", True)
    return kept


@dataclass(frozen=True)
class _Played:
    """The clips of a set that gave an answer, and why others did not."""

    rows: list[Row] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)
    absent: list[Row] = field(default_factory=list)  # recorded without a modality of the subset


def _score_set(
    engines: Engines,
    clips: ClipSet,
    subset: str,
    request: BundleRequest,
    progress: _Progress,
    answered: dict[str, Answered],
) -> dict[str, Any]:
    """Play every clip of a set with the subset's modalities alone; with a history, once more after it."""
    shown = cast(tuple[Modality, ...], subset_modalities(subset))
    progress.begin(f"{clips.name}/{subset}", len(clips.rows))
    played = _play_all(engines, clips, shown, progress, {}, request.hold_s)
    after, history_s, label = 0, request.history_s, request.history_of
    if history_s and played.rows:
        most = {modality: history_s * rate for modality, rate in engines.baseline_rates.items()}
        usable = None if label is None else [row.label == label for row in played.rows]
        speakers = [row.speaker for row in played.rows]
        found = pasts([answer.left for answer in played.answers], speakers, most, usable=usable)
        past = {row.id: one for row, one in zip(played.rows, found, strict=True)}
        after = sum(bool(one) for one in found)
        progress.begin(f"{clips.name}/{subset} after {history_s:g} s", len(clips.rows))
        played = _play_all(engines, clips, shown, progress, past, request.hold_s)
    result = {
        "name": clips.name,
        "subset": subset,
        "manifest": clips.manifest.name,
        "failed": played.failed,
        "without_modality": len(played.absent),
        "unlabelled": clips.unlabelled,
        **({"with_history": after} if history_s else {}),
    }
    if not played.rows:
        return {**result, "n": 0, **dict.fromkeys(SCORES if engines.labels else metrics.REGRESSION.values())}
    answered[subset] = Answered(played.rows, played.answers, engines.labels)
    return {
        **result,
        **scores(answered[subset]),
        **_more_scores(engines, clips, subset, request, progress, answered[subset]),
    }


def _more_scores(
    engines: Engines,
    clips: ClipSet,
    subset: str,
    request: BundleRequest,
    progress: _Progress,
    answered: Answered,
) -> dict[str, Any]:
    """What was asked for beside the scores: by the seconds heard and seen, by groups of people, of joined clips."""
    more: dict[str, Any] = {}
    moving = stretches(answered) if engines.labels else []
    if request.by_time and moving:
        more |= by_time(moving, len(engines.labels))
    if request.people is not None:
        more["groups"] = group_scores(answered, read_people(request.people, clips.name))
    shown = cast(tuple[Modality, ...], subset_modalities(subset))
    if request.joined_s and "language" not in shown:
        pairs = sessions([row for row in clips.everyone if set(shown) <= set(recordable(row))], request.limit)
        if pairs:
            progress.begin(f"{clips.name}/{subset} joined", len(pairs))
            more["joined"] = score_joined(engines, pairs, clips.media_root, shown, request.joined_s, progress.step)
    return more


def _play_all(
    engines: Engines,
    clips: ClipSet,
    shown: tuple[Modality, ...],
    progress: _Progress,
    past: Mapping[str, Mapping[str, Baseline]],
    hold_s: float,
) -> _Played:
    """Every clip in its own stream, after what `past` says by the clip's id."""
    played = _Played()
    for row in clips.rows:
        try:
            answer = play(engines, row, clips.media_root, shown, past.get(row.id), hold_s)
        except SourceError as error:
            played.failed.append({"id": row.id, "reason": str(error).replace(f"{clips.media_root}/", "")})
        else:
            if answer is None:
                played.absent.append(row)
            else:
                played.rows.append(row)
                played.answers.append(answer)
        progress.step()
    return played


class _Progress:
    """Says how many clips are done and how many of them in a second, once a second and at the end."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self.begin("", 0)

    def begin(self, name: str, total: int) -> None:
        """So many clips are going to be played under this name."""
        self._name, self._total, self._done = name, total, 0
        self._started_s = self._said_s = time.monotonic()

    def step(self) -> None:
        self._done += 1
        now_s = time.monotonic()
        last = self._done == self._total
        if last or now_s - self._said_s >= 1.0:
            self._said_s = now_s
            rate = self._done / max(1e-9, now_s - self._started_s)
            self._say(f"{self._name}: {self._done} of {self._total} clips, {rate:.1f} clips/s", last)


def _identity(engines: Engines, folder: Path) -> dict[str, str]:
    """What was scored; the sha256 of the manifest names a bundle to the byte."""
    with engines.stream(pace="max") as stream:
        session = stream.session
        return {
            "folder": str(folder),
            "name": session.bundle_name,
            "sha256": session.bundle,
            "backend": session.backend,
        }
