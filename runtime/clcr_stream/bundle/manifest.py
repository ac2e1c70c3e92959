"""manifest.json: its typed parts, and the checks that make it a contract between exporter and runtime.

What a manifest says of an engine's inputs and outputs is compared with `contract`, so that nothing downstream has to
ask again.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec

from clcr_stream.errors import BundleError
from clcr_stream.frontends.mel import MelSpec

FORMAT_VERSION = 2
MANIFEST_NAME = "manifest.json"
TOKENIZER_NAME = "tokenizer.json"
MODALITIES = ("vision", "acoustic", "language")
ENGINES = ("language", "level1", "level2", "level3", "intercad")
STREAMS = "streams"
MAX_FILE_BYTES = 1 << 31
FRAME_RATES_HZ = (1, 60)  # what sources, rings and cutter are tested with
SAMPLE_RATES_HZ = (8_000, 48_000)
SAFE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

Io: TypeAlias = dict[str, tuple[str, tuple[int, ...]]]  # name -> (dtype, shape without the leading streams)


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every part of the manifest is: immutable, and closed to keys that it does not name."""


class TensorSpec(_Strict, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One tensor at an engine's border; the first dimension is the symbol "streams", the others are fixed."""

    name: str
    dtype: Literal["float32", "int32"]
    shape: list[int | str]


class EngineSpec(_Strict, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One ONNX graph; a state tensor `X` is an input `X` and an output `X_next`, zeros at stream start."""

    file: str
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    state: list[str] = []


class FileSpec(_Strict, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a file of the bundle must be, byte for byte."""

    sha256: str
    bytes: int


class VisionSpec(_Strict, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The video grid: `slots_per_hop` face crops of `size_px` x `size_px` RGB per hop."""

    rate_hz: int
    slots_per_hop: int
    tokens: int
    size_px: int


class SpeechSpec(_Strict, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A pretrained speech encoder: its steps in a hop, their width, and after how many steps its positions repeat."""

    steps_per_hop: int
    width: int
    period_steps: int


class AcousticSpec(_Strict, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The audio grid, the log-mel front-end and, where sound has one, the speech encoder."""

    sample_rate_hz: int
    samples_per_hop: int
    mel_frames_per_hop: int
    mel_bands: int
    tokens_per_hop: int
    tokens: int
    fft_samples: int
    window_samples: int
    hop_samples: int
    low_hz: float
    high_hz: float
    log_floor: float
    mel_scale: Literal["htk", "slaney"] = "htk"
    speech: SpeechSpec | None = None

    @property
    def mel(self) -> MelSpec:
        """The constants of the log-mel front-end."""
        return MelSpec(**{field.name: getattr(self, field.name) for field in fields(MelSpec)})


class LanguageSpec(_Strict, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The most tokens of text that a window holds, and the tokenizer's special ids."""

    tokens: int
    pad_id: int
    cls_id: int
    sep_id: int


class ModelSpec(_Strict, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The model's widths, as far as the runtime has to know them."""

    width: int
    shared_rank: int
    private_rank: int
    heads: int
    position_base: float


class IntendedUse(_Strict, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the model may be used for; `notice` is shown to the persons concerned."""

    infers_emotion: bool
    context: list[str]
    notice: str


class Manifest(_Strict, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """manifest.json, format 2."""

    format: int
    name: str
    created_by: str
    task: Literal["classification", "regression"]
    labels: list[str]
    hop_ns: int
    window_hops: int
    gamma: float
    vision: VisionSpec
    acoustic: AcousticSpec
    language: LanguageSpec
    model: ModelSpec
    engines: dict[str, EngineSpec]
    files: dict[str, FileSpec]
    provenance: dict[str, Any]
    intended_use: IntendedUse


def parse_manifest(data: bytes, where: str = MANIFEST_NAME) -> Manifest:
    """The typed, checked manifest of `data` (JSON); BundleError when the text, a field or the I/O contract is wrong."""
    try:
        tree = json.loads(data, object_pairs_hook=_object_without_repeats, parse_constant=_refuse_constant)
        json.dumps(tree, ensure_ascii=False).encode()  # ValueError for half of a surrogate pair, which is no text
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{where}: not valid JSON ({error})") from error
    version = tree.get("format") if isinstance(tree, dict) else None
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise BundleError(
            f"{where}: format is {version!r}, this runtime reads {FORMAT_VERSION}; export again with `clcr-export`"
        )
    try:
        manifest = msgspec.convert(tree, Manifest)
    except msgspec.ValidationError as error:
        raise BundleError(f"{where}: {error}") from error
    check_manifest(manifest, where)
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> str:
    """Fill in `files` from what lies in `folder`, check, write manifest.json; the bundle's id."""
    files = {}
    for path in sorted(folder.iterdir()):
        if path.name != MANIFEST_NAME:
            data = path.read_bytes()
            files[path.name] = FileSpec(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
    complete = msgspec.structs.replace(manifest, files=files)
    check_manifest(complete, str(folder / MANIFEST_NAME))
    data = msgspec.json.format(msgspec.json.encode(complete), indent=1) + b"\n"
    (folder / MANIFEST_NAME).write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def check_manifest(manifest: Manifest, where: str = MANIFEST_NAME) -> None:
    """Raise BundleError when numbers contradict, a file has a bad name, or an engine's I/O is not the contract's."""
    _check_rate("vision.rate_hz", manifest.vision.rate_hz, FRAME_RATES_HZ, where)
    _check_rate("acoustic.sample_rate_hz", manifest.acoustic.sample_rate_hz, SAMPLE_RATES_HZ, where)
    _check_numbers(manifest, where)
    for name, file in manifest.files.items():
        if not SAFE_NAME.fullmatch(name):
            raise BundleError(f"{where}: files: {name!r} is not a plain name of A-Z a-z 0-9 . _ -")
        if not _SHA256.fullmatch(file.sha256) or not 0 <= file.bytes <= MAX_FILE_BYTES:
            raise BundleError(f"{where}: files.{name}: sha256 must be 64 hex digits and bytes in 0..{MAX_FILE_BYTES}")
    if MANIFEST_NAME in manifest.files:
        raise BundleError(f"{where}: files: {MANIFEST_NAME} cannot list itself")
    if sorted(manifest.engines) != sorted(ENGINES):
        raise BundleError(f"{where}: engines are {sorted(manifest.engines)}, the contract has {sorted(ENGINES)}")
    for needed in (TOKENIZER_NAME, *(engine.file for engine in manifest.engines.values())):
        if needed not in manifest.files:
            raise BundleError(f"{where}: files: {needed} is missing")
    for name in ENGINES:
        _check_engine(manifest, name, where)


def language_words(manifest: Manifest) -> Io:
    """One level's described language tokens: queries, keys and values by head; marks (activation, validity); pool."""
    model, text = manifest.model, manifest.language.tokens
    return {
        "language_qkv": ("float32", (3 * model.heads, text, model.shared_rank // model.heads)),
        "language_marks": ("float32", (2, text)),
        "language_pool": ("float32", (text, model.shared_rank + model.private_rank)),
    }


def contract(manifest: Manifest, engine: str) -> tuple[Io, Io]:
    """What an engine takes and what it gives, apart from its state."""
    vision, acoustic, width = manifest.vision, manifest.acoustic, manifest.model.width
    slots, tokens, text = vision.slots_per_hop, acoustic.tokens_per_hop, manifest.language.tokens
    f32 = "float32"
    triple = (f32, (3,))
    per_modality: tuple[str, tuple[int, ...]] = (f32, (3, width))
    if engine == "language":
        inputs: Io = {"token_ids": ("int32", (text,)), "token_valid": (f32, (text,)), "position": (f32, (text, width))}
        return inputs, {f"{name}_{level}": io for level in (1, 2, 3) for name, io in language_words(manifest).items()}
    if engine == "intercad":
        inputs = {f"{kind}_{level}": per_modality for level in (1, 2, 3) for kind in ("shared", "private")}
        inputs["present"] = (f32, (3,))
        outputs: Io = (
            {"probs": (f32, (len(manifest.labels),))} if manifest.task == "classification" else {"value": (f32, (1,))}
        )
        return inputs, outputs | {"omega": triple, "beta": triple, "eta": triple}
    first = engine == "level1"
    speech = acoustic.speech
    features = (tokens, width) if speech is None else (speech.steps_per_hop, speech.width)
    inputs = {
        "vision_in": (f32, (slots, 3, vision.size_px, vision.size_px) if first else (slots, width)),
        "acoustic_in": (f32, (acoustic.mel_frames_per_hop, acoustic.mel_bands) if first else features),
        "vision_valid": (f32, (slots,)),
        "acoustic_valid": (f32, (tokens,)),
        "vision_position": (f32, (slots, width)),
        "acoustic_position": (f32, (tokens, width)),
        **language_words(manifest),
        "gamma": (f32, (1,)),
    }
    if first and speech is not None:
        inputs["speech_position"] = (f32, features)
    outputs = {
        "vision_out": (f32, (slots, width)),
        "acoustic_out": (f32, features),
        "shared": per_modality,
        "private": per_modality,
        "alpha_vision": (f32, (vision.tokens,)),
        "alpha_acoustic": (f32, (acoustic.tokens,)),
        "alpha_language": (f32, (text,)),
        "budget": (f32, (3,)),
        "present": (f32, (3,)),
    }
    return inputs, outputs


def _object_without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"key {key!r} appears twice")
        result[key] = value
    return result


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a number")


def _check_rate(field: str, rate_hz: int, supported_hz: tuple[int, int], where: str) -> None:
    least_hz, most_hz = supported_hz
    if not least_hz <= rate_hz <= most_hz:
        raise BundleError(f"{where}: {field} is {rate_hz}; supported are {least_hz} to {most_hz} Hz, export again")


def _check_numbers(manifest: Manifest, where: str) -> None:
    """The grid must be exact: a hop is a whole number of slots, samples, mel frames and tokens."""
    vision, acoustic, model, hops = manifest.vision, manifest.acoustic, manifest.model, manifest.window_hops
    second = 1_000_000_000
    rules = {
        "hop_ns": 0 < manifest.hop_ns <= 10 * second,
        "window_hops": 0 < hops <= 10_000,
        "gamma": 0.0 <= manifest.gamma <= 4.0,
        "labels": len(manifest.labels) >= 2 if manifest.task == "classification" else not manifest.labels,
        "labels (repeated)": len(set(manifest.labels)) == len(manifest.labels),
        "vision.slots_per_hop": 0 < vision.slots_per_hop * second == vision.rate_hz * manifest.hop_ns,
        "vision.tokens": vision.tokens == vision.slots_per_hop * hops,
        "vision.size_px": 16 <= vision.size_px <= 1024,
        "acoustic.samples_per_hop": 0 < acoustic.samples_per_hop * second == acoustic.sample_rate_hz * manifest.hop_ns,
        "acoustic.mel_frames_per_hop": acoustic.mel_frames_per_hop * acoustic.hop_samples == acoustic.samples_per_hop,
        "acoustic.tokens_per_hop": 0 < acoustic.tokens_per_hop
        and acoustic.mel_frames_per_hop % acoustic.tokens_per_hop == 0,
        "acoustic.tokens": acoustic.tokens == acoustic.tokens_per_hop * hops,
        "acoustic.window_samples": 0
        < acoustic.hop_samples
        <= acoustic.window_samples
        <= acoustic.fft_samples
        <= 1 << 16,
        "acoustic.mel_bands": 0 < acoustic.mel_bands <= 1024,
        "acoustic.high_hz": 0 <= acoustic.low_hz < acoustic.high_hz <= acoustic.sample_rate_hz / 2,
        "acoustic.log_floor": acoustic.log_floor > 0,
        "acoustic.speech": acoustic.speech is None or _fits(acoustic.speech, acoustic),
        "language.tokens": 2 < manifest.language.tokens <= 4096,
        "model.width": 0 < model.width <= 1 << 14 and model.width % 2 == 0,
        "model.heads": model.heads > 0 and 0 < model.shared_rank < model.width and model.shared_rank % model.heads == 0,
        "model.private_rank": 0 < model.private_rank < model.width,
        "model.position_base": model.position_base > 1,
    }
    for field, holds in rules.items():
        if not holds:
            raise BundleError(f"{where}: {field} is out of range or contradicts the hop, the window or the rates")


def _fits(speech: SpeechSpec, acoustic: AcousticSpec) -> bool:
    return (
        speech.steps_per_hop > 0
        and speech.steps_per_hop % acoustic.tokens_per_hop == 0
        and 0 < speech.width <= 1 << 14
        and speech.width % 2 == 0
        and 0 < speech.period_steps <= 1 << 20
    )


def _check_engine(manifest: Manifest, name: str, where: str) -> None:
    """The declared I/O of one engine must be the contract's plus its state tensors, nothing else."""
    engine = manifest.engines[name]
    inputs, outputs = contract(manifest, name)
    declared_in = {tensor.name: tensor for tensor in engine.inputs}
    declared_out = {tensor.name: tensor for tensor in engine.outputs}
    if (
        len(declared_in) != len(engine.inputs)
        or len(declared_out) != len(engine.outputs)
        or len(set(engine.state)) != len(engine.state)
    ):
        raise BundleError(f"{where}: engines.{name}: a tensor is named twice")
    for side, declared, wanted, state in (
        ("inputs", declared_in, inputs, set(engine.state)),
        ("outputs", declared_out, outputs, {f"{state}_next" for state in engine.state}),
    ):
        if set(declared) != set(wanted) | state or state & set(wanted):
            difference = sorted(set(declared) ^ (set(wanted) | state)) or sorted(state & set(wanted))
            raise BundleError(f"{where}: engines.{name}.{side}: {', '.join(difference)} differs from the contract")
        for tensor_name, (dtype, shape) in wanted.items():
            tensor = declared[tensor_name]
            if tensor.dtype != dtype or tensor.shape != [STREAMS, *shape]:
                raise BundleError(
                    f"{where}: engines.{name}.{side}.{tensor_name} is {tensor.dtype} {tensor.shape}, "
                    f"the contract has {dtype} {[STREAMS, *shape]}"
                )
    for state_name in engine.state:
        before, after = declared_in[state_name], declared_out[f"{state_name}_next"]
        sizes = before.shape[1:]
        fixed = before.shape[:1] == [STREAMS] and all(isinstance(size, int) and 0 <= size <= 1 << 20 for size in sizes)
        if (before.dtype, before.shape) != (after.dtype, after.shape) or not fixed:
            raise BundleError(
                f"{where}: engines.{name}.state.{state_name}: {before.shape} -> {after.shape} must be equal and fixed"
            )
