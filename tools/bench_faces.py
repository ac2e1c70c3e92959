"""How often faces are found, how steadily, and at what cost: OpenCV's cascade, and YuNet where its file is given.

    python tools/bench_faces.py --media clips                                   the cascade
    python tools/bench_faces.py --media clips --face-model yunet.onnx           both, and how they frame a face
    python tools/bench_faces.py --media clips --json faces.json --clips 20

Each clip is searched as it is and in changed copies: far (a third of the size), dim (a quarter of the light), tilted
(20 degrees), masked (the lower half of the face covered, where the cascade sees one). About 15 frames a second are
taken.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.machine import machine
from clcr_stream.errors import ClcrError
from clcr_stream.frontends.faces import FaceFinder
from clcr_stream.frontends.yunet import YuNet
from clcr_stream.sources.media import VideoItem, open_file

Picture = NDArray[np.uint8]
Box = tuple[int, int, int, int]
RATE_HZ = 15
SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi")


@dataclass
class Found:
    """What one finder gave on one kind of pictures."""

    frames: int = 0
    hits: int = 0
    jitters: list[float] = field(default_factory=list)  # second difference of the box's centre, in shares of its side
    times_ms: list[float] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Rates, and percentiles of the rest; null where nothing was found."""
        return {
            "frames": self.frames,
            "hit_rate": round(self.hits / self.frames, 4) if self.frames else None,
            "jitter_p50": _percentile(self.jitters, 50),
            "jitter_p95": _percentile(self.jitters, 95),
            "ms_mean": round(float(np.mean(self.times_ms)), 3) if self.times_ms else None,
            "ms_p95": _percentile(self.times_ms, 95),
        }


def _percentile(values: Sequence[float], share: int) -> float | None:
    return round(float(np.percentile(values, share)), 4) if values else None


def pictures(path: Path, most: int) -> Iterator[Picture]:
    """The pictures of a clip at about RATE_HZ, at most so many."""
    due_s, given = 0.0, 0
    with open_file(str(path), ("vision",), 16_000, lambda _: None) as reader:
        for item in reader.items():
            if isinstance(item, VideoItem) and item.time_ns / 1e9 >= due_s and given < most:
                due_s += 1 / RATE_HZ
                given += 1
                yield item.rgb()


def far(picture: Picture, _: Box | None) -> Picture:
    """A person three times as far away."""
    import cv2

    height, width = picture.shape[:2]
    small = cv2.resize(picture, (width // 3, height // 3), interpolation=cv2.INTER_AREA)
    whole = np.full_like(picture, 128)
    top, left = height // 3, width // 3
    whole[top : top + small.shape[0], left : left + small.shape[1]] = small
    return whole


def dim(picture: Picture, _: Box | None) -> Picture:
    """A quarter of the light."""
    return (picture // 4).astype(np.uint8)


def tilted(picture: Picture, _: Box | None) -> Picture:
    """The head to one side."""
    import cv2

    height, width = picture.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), 20, 1.0)
    return np.asarray(cv2.warpAffine(picture, turn, (width, height), borderMode=cv2.BORDER_REPLICATE), np.uint8)


def masked(picture: Picture, box: Box | None) -> Picture:
    """A mask from the nose to the chin."""
    if box is None:
        return picture
    left, top, side, _ = box
    picture = picture.copy()
    picture[max(0, top + side // 2) : top + side + side // 10, max(0, left) : left + side] = (120, 140, 150)
    return picture


KINDS: dict[str, Callable[[Picture, Box | None], Picture]] = {
    "as it is": lambda picture, _: picture,
    "far": far,
    "dim": dim,
    "tilted": tilted,
    "masked": masked,
}


def follow(finder: FaceFinder, shown: Sequence[Picture], found: Found) -> list[Box | None]:
    """Search the pictures of one clip in order; the boxes."""
    finder.reset()
    boxes: list[Box | None] = []
    for picture in shown:
        begun = time.perf_counter()
        crop = finder.crop(picture)
        found.times_ms.append((time.perf_counter() - begun) * 1e3)
        found.frames += 1
        found.hits += crop is not None
        boxes.append(None if crop is None else crop.box)
    for first, second, third in zip(boxes, boxes[1:], boxes[2:], strict=False):
        if first is not None and second is not None and third is not None:
            centres = [np.array((x + width / 2, y + height / 2)) for x, y, width, height in (first, second, third)]
            found.jitters.append(float(np.linalg.norm(centres[0] - 2 * centres[1] + centres[2])) / second[2])
    return boxes


def measure(clips: Sequence[Path], finders: dict[str, FaceFinder], most: int) -> dict[str, Any]:
    """Every finder on every kind of every clip; with two finders, how the second frames what both find."""
    found = {name: {kind: Found() for kind in KINDS} for name in finders}
    ratios: list[tuple[float, float, float]] = []  # of sides; offsets right and down in shares of the first one's side
    for path in clips:
        shown = list(pictures(path, most))
        truth = follow(FaceFinder(), shown, Found())
        for kind, change in KINDS.items():
            changed = [change(picture, box) for picture, box in zip(shown, truth, strict=True)]
            boxes = [follow(finder, changed, found[name][kind]) for name, finder in finders.items()]
            if kind == "as it is" and len(boxes) == 2:
                ratios += [_framing(a, b) for a, b in zip(*boxes, strict=True) if a is not None and b is not None]
    result: dict[str, Any] = {
        name: {kind: one.as_json() for kind, one in kinds.items()} for name, kinds in found.items()
    }
    if ratios:
        side, right, down = (round(float(value), 4) for value in np.median(np.array(ratios), axis=0))
        result["framing"] = {"frames": len(ratios), "side": side, "right": right, "down": down}
    return result


def _framing(a: Box, b: Box) -> tuple[float, float, float]:
    right, down = b[0] + b[2] / 2 - a[0] - a[2] / 2, b[1] + b[3] / 2 - a[1] - a[3] / 2
    return b[2] / a[2], right / a[2], down / a[2]


def table(result: dict[str, Any]) -> str:
    """For a person."""
    lines = ["finder   kind      frames  found  jitter p50  p95    ms mean  p95"]
    for name, kinds in result.items():
        if name == "framing":
            continue
        for kind, one in kinds.items():
            parts = ("hit_rate", "jitter_p50", "jitter_p95", "ms_mean", "ms_p95")
            cells = ["-" if one[part] is None else f"{one[part]:.3f}" for part in parts]
            lines.append(f"{name:8} {kind:9} {one['frames']:6}  {'  '.join(cells)}")
    if "framing" in result:
        side, right, down = (result["framing"][part] for part in ("side", "right", "down"))
        lines.append(f"YuNet's box beside the cascade's: side x {side:.2f}, {right:+.2f} right, {down:+.2f} down")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 with one line when there is nothing to measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--media", type=Path, required=True, help="a folder of clips, or one clip")
    parser.add_argument("--clips", type=int, default=20, help="so many of them, evenly (20)")
    parser.add_argument("--frames", type=int, default=90, help="of each clip, at most (90)")
    parser.add_argument("--face-model", type=Path, help="YuNet's file")
    parser.add_argument("--json", type=Path, help="write the figures there")
    given = parser.parse_args(arguments)
    files = [given.media] if given.media.is_file() else sorted(
        path for path in given.media.rglob("*") if path.suffix in SUFFIXES
    )  # fmt: skip
    wanted = min(given.clips, len(files))
    clips = [files[index * len(files) // wanted] for index in range(wanted)] if files else []
    try:
        if not clips:
            raise ClcrError(f"--media {given.media}: no clip there; give a folder with {', '.join(SUFFIXES)}")
        finders = {"cascade": FaceFinder()}
        if given.face_model is not None:
            finders["yunet"] = FaceFinder(search=YuNet(given.face_model))
        result = measure(clips, finders, given.frames)
    except ClcrError as error:
        sys.stderr.write(f"bench_faces: error: {error}\n")
        return 2
    sys.stdout.write(table(result) + "\n")
    if given.json is not None:
        given.json.write_text(json.dumps({"machine": machine(), "clips": len(clips), **result}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
