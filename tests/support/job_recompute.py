"""What the bundle's graphs, and the checkpoint they came from, say of a whole clip; a program of its own as well.

    python tests/support/job_recompute.py BUNDLE CLIP CLIP.srt|- OUT.npz [CHECKPOINT]

The clip is decoded as a whole, laid on the time grid of ARCHITECTURE.md and given to fresh ONNX Runtime sessions from
zero state; with CHECKPOINT also to the PyTorch model, which has no state at all. Of the runtime only the face finder,
the mel front-end, the tokenizer and the tables of positions are used: no rings, no cutter, no levels, no loop.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from clcr.network.config import MODALITIES
from clcr_stream.frontends.faces import FaceFinder
from clcr_stream.frontends.mel import MelSpec
from clcr_stream.frontends.positions import sinusoid, speech_positions
from clcr_stream.frontends.text import Tokenizer
from clcr_stream.window.transcript import Segment
from recordings import (
    HOP_NS,
    ORIGIN_NS,
    SAMPLES,
    SIZE_PX,
    SLOTS,
    TEXT_TOKENS,
    TOKENS,
    WINDOW_HOPS,
    Frame,
    Laid,
    Recording,
    Said,
    Words,
)

MEL_FRAMES, WIDTH = 20, 128
TOKEN_AXIS = {"qkv": 2, "marks": 2, "pool": 1}  # of the described words; streams are axis 0
MEL_FIELDS = [field.name for field in fields(MelSpec)]
Arrays = dict[str, NDArray[Any]]


def read_clip(video: Path, srt: Path | None) -> Recording:
    """The whole clip on the grid; it ends with the last hop that picture or sound fills."""
    samples, present = _sound(video)
    frames = _faces(video)
    last_slot = (frames[-1].captured_ns - ORIGIN_NS) * 15 + 500_000_000
    ends = [(last_slot // 1_000_000_000 + 1) * 1_000_000_000 // 15, np.flatnonzero(present)[-1] * 62500 + 62500]
    hops = int(max(ends)) // HOP_NS
    size = hops * SAMPLES
    pad = max(0, size - len(samples))
    samples, present = np.pad(samples, (0, pad))[:size], np.pad(present, (0, pad))[:size]
    return Recording(hops, frames, samples, present, _words(srt) if srt is not None else [])


def _faces(video: Path) -> list[Frame]:
    """The face in the first frame of each slot; the finder sees those frames only, in order."""
    finder, found, taken = FaceFinder(size_px=SIZE_PX), [], set()
    container: Any
    with av.open(str(video)) as container:
        start_s = Fraction(container.start_time or 0, 1_000_000)
        for frame in container.decode(video=0):
            time_ns = int((frame.pts * frame.time_base - start_s) * 1_000_000_000)
            slot = (time_ns * 30 + 1_000_000_000) // 2_000_000_000
            if slot not in taken:
                taken.add(slot)
                crop = finder.crop(frame.to_ndarray(format="rgb24"))
                # In the middle of its slot: a frame at the edge of two (30 a second) belongs to the later one.
                middle_ns = ORIGIN_NS + round(slot * 1_000_000_000 / 15)
                found.append(Frame(middle_ns, None if crop is None else crop.rgb))
    return found


def _sound(video: Path) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """All samples at 16 kHz from the container's start, and which of them there are."""
    resampler = av.AudioResampler(format="flt", layout="mono", rate=16000)
    blocks, first = [], None
    container: Any
    with av.open(str(video)) as container:
        start_s = Fraction(container.start_time or 0, 1_000_000)
        for frame in container.decode(audio=0):
            if first is None:
                first = round((frame.pts * frame.time_base - start_s) * 16000)
            blocks += resampler.resample(frame)
        blocks += resampler.resample(None)
    heard = np.concatenate([block.to_ndarray().reshape(-1) for block in blocks])
    lead = max(0, first or 0)
    heard = heard[max(0, -(first or 0)) :]
    present = np.concatenate([np.zeros(lead, np.bool_), np.ones(len(heard), np.bool_)])
    return np.concatenate([np.zeros(lead, np.float32), heard.astype(np.float32)]), present


def _words(srt: Path) -> list[Words]:
    """A cue is known from its end on."""
    found = []
    for number, block in enumerate(srt.read_text(encoding="utf-8").strip().split("\n\n")):
        _, times, *lines = block.splitlines()
        start_ns, end_ns = (ORIGIN_NS + _srt_ns(time) for time in times.split(" --> "))
        found.append(Words(Segment(f"cue {number}", start_ns, end_ns, " ".join(lines)), end_ns))
    return sorted(found, key=lambda words: words.arrived_ns)


def _srt_ns(text: str) -> int:
    hours, minutes, seconds, milliseconds = map(int, re.split("[:,]", text.strip()))
    return ((hours * 60 + minutes) * 60_000 + seconds * 1000 + milliseconds) * 1_000_000


class Graphs:
    """Plain sessions on the bundle's graphs, state carried in a dictionary."""

    def __init__(self, bundle: Path) -> None:
        onnxruntime: Any = importlib.import_module("onnxruntime")  # its stubs do not export what it does
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._sessions = {
            name: onnxruntime.InferenceSession(str(bundle / f"{name}.onnx"), options, ["CPUExecutionProvider"])
            for name in ("language", "level1", "level2", "level3", "intercad")
        }
        self._state: Arrays = {}
        self.spoken: dict[Said, Arrays] = {}  # what the language graph, which has no state, says of a segment

    def shape(self, name: str, output: str) -> list[int]:
        """The shape of one output for one stream."""
        (found,) = [item.shape for item in self._sessions[name].get_outputs() if item.name == output]
        return [1, *found[1:]]

    def run(self, name: str, inputs: Arrays) -> Arrays:
        """The outputs; every `X_next` is the next run's `X`, zeros before the first."""
        session = self._sessions[name]
        for tensor in session.get_inputs():
            if tensor.name not in inputs:
                shape = [size if isinstance(size, int) else 1 for size in tensor.shape]
                inputs[tensor.name] = self._state.get(f"{name}.{tensor.name}", np.zeros(shape, np.float32))
        taken = {
            tensor.name: inputs[tensor.name] for tensor in session.get_inputs()
        }  # level 1 alone wants positions of speech
        outputs = dict(zip([out.name for out in session.get_outputs()], session.run(None, taken), strict=True))
        self._state |= {f"{name}.{key[:-5]}": value for key, value in outputs.items() if key.endswith("_next")}
        return outputs


def by_graphs(bundle: Path, recording: Recording, manifest: dict[str, Any]) -> Iterator[Arrays]:
    """What the graphs say at every tick of the recording."""
    graphs = Graphs(bundle)
    laid = Laid(Tokenizer(bundle / "tokenizer.json"), recording)
    acoustic = manifest["acoustic"]
    spec = MelSpec(**{name: acoustic[name] for name in MEL_FIELDS if name in acoustic})
    mel = laid.mel(spec, 0, recording.hops)
    valid: list[Arrays] = []
    for hop in range(recording.hops):
        slots = laid.slots[hop * SLOTS : (hop + 1) * SLOTS]
        crops = [np.zeros((SIZE_PX, SIZE_PX, 3)) if f is None or f.crop is None else f.crop for f in slots]
        language = _language(graphs, laid, hop + 1)
        common: Arrays = {
            "vision_valid": _f32([[f is not None and f.crop is not None for f in slots]]),
            "acoustic_valid": laid.acoustic_valid[None, hop * TOKENS : (hop + 1) * TOKENS],
            "vision_position": sinusoid(np.arange(hop * SLOTS, (hop + 1) * SLOTS), WIDTH)[None],
            "acoustic_position": sinusoid(np.arange(hop * TOKENS, (hop + 1) * TOKENS), WIDTH)[None],
            "gamma": _f32([[manifest["gamma"]]]),
        }
        if "speech" in acoustic:
            count = acoustic["speech"]["steps_per_hop"]
            common["speech_position"] = speech_positions(np.arange(hop * count, (hop + 1) * count))[None]
        tokens: Arrays = {
            "vision_in": _f32(np.stack(crops).transpose(0, 3, 1, 2)[None]),
            "acoustic_in": mel[None, hop * MEL_FRAMES : (hop + 1) * MEL_FRAMES],
        }
        valid.append(common | {"language_valid": language[0]["language_marks"][:, 1]})
        yield _answer(graphs, common | tokens, language, _counts(valid))


def _f32(values: Any) -> NDArray[np.float32]:
    return np.asarray(values, np.float32)


def _counts(hops: list[Arrays]) -> NDArray[np.float64]:
    """Valid tokens of each modality in the window that ends with the last of `hops`, at least one."""
    window = hops[-WINDOW_HOPS:]
    seen, heard = (sum(float(hop[f"{name}_valid"].sum()) for hop in window) for name in ("vision", "acoustic"))
    return np.maximum(1.0, [seen, heard, float(window[-1]["language_valid"].sum())])


def _answer(graphs: Graphs, inputs: Arrays, language: list[Arrays], counts: NDArray[np.float64]) -> Arrays:
    """One hop through the three levels and InterCAD."""
    summaries: Arrays = {}
    alphas = []
    out: Arrays = {}
    for level in (1, 2, 3):
        out = graphs.run(f"level{level}", inputs | language[level - 1])
        inputs = inputs | {"vision_in": out["vision_out"], "acoustic_in": out["acoustic_out"]}
        summaries |= {f"shared_{level}": out["shared"], f"private_{level}": out["private"]}
        alphas.append([out[f"alpha_{modality}"][0].astype(np.float64) for modality in MODALITIES])
    head = graphs.run("intercad", summaries | {"present": out["present"]})
    return {
        "output": head["probs" if "probs" in head else "value"][0],
        **{name: head[name][0] for name in ("omega", "beta", "eta")},
        "mass": np.array([[alpha.sum() for alpha in row] for row in alphas]) / counts,
        "active": np.array([[(alpha > 0).sum() for alpha in row] for row in alphas]) / counts,
    }


def _language(graphs: Graphs, laid: Laid, hops: int) -> list[Arrays]:
    """Per level its inputs of language for the window that ends after `hops` hops, each segment encoded alone."""
    spoken: list[tuple[int, Arrays]] = []
    for said in laid.place_words(hops):
        if said not in graphs.spoken:
            graphs.spoken[said] = _segment(graphs, said)
        spoken.append((len(said.ids), graphs.spoken[said]))
    levels: list[Arrays] = []
    for level in (1, 2, 3):
        words: Arrays = {}
        for part, axis in TOKEN_AXIS.items():
            name = f"language_{part}_{level}"
            tokens = [np.moveaxis(out[name], axis, 0)[:count] for count, out in spoken]
            laid_out = np.zeros(graphs.shape("language", name), np.float32)
            if tokens:
                shown = np.concatenate(tokens)[-TEXT_TOKENS:]
                np.moveaxis(laid_out, axis, 0)[: len(shown)] = shown
            words[f"language_{part}"] = laid_out
        levels.append(words)
    return levels


def _segment(graphs: Graphs, said: Said) -> Arrays:
    """One segment through the language graph, alone."""
    count = len(said.ids)
    ids, valid, position = (
        np.zeros((1, TEXT_TOKENS), np.int32),
        np.zeros((1, TEXT_TOKENS)),
        np.zeros((1, TEXT_TOKENS, WIDTH)),
    )
    ids[0, :count], valid[0, :count] = said.ids, 1.0
    position[0, :count] = sinusoid(np.arange(said.first_step, said.first_step + count), WIDTH)
    return graphs.run("language", {"token_ids": ids, "token_valid": _f32(valid), "position": _f32(position)})


def by_model(checkpoint: Path, recording: Recording) -> Iterator[Arrays]:
    """What the PyTorch model says at every tick, each window computed as a whole."""
    import torch

    from clcr.training.checkpoint import load_checkpoint
    from clcr_export.graphs import round_pretrained
    from streaming_reference import Offline

    torch.set_num_threads(1)
    model = load_checkpoint(checkpoint)
    round_pretrained(model)  # as the bundle stores them
    offline = Offline(model, Tokenizer(checkpoint / "tokenizer.json"), recording)
    encoded = offline.encode(recording.hops)
    for hops in range(1, recording.hops + 1):
        said = offline.at(hops, encoded)
        yield {name: said[name] for name in ("output", "omega", "beta", "eta", "mass")}


def main(arguments: list[str]) -> int:
    """Write OUT.npz: per source `graphs.NAME` and `model.NAME`, (ticks, ...)."""
    bundle, video, srt, out, *checkpoint = arguments
    manifest = json.loads((Path(bundle) / "manifest.json").read_text())
    recording = read_clip(Path(video), None if srt == "-" else Path(srt))
    sources = {"graphs": by_graphs(Path(bundle), recording, manifest)}
    if checkpoint:
        sources["model"] = by_model(Path(checkpoint[0]), recording)
    found: Arrays = {}
    for source, said in sources.items():
        ticks = list(said)
        found |= {f"{source}.{name}": np.stack([tick[name] for tick in ticks]) for name in ticks[0]}
    np.savez(out, allow_pickle=False, **found)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
