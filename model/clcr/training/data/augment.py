"""Training-time changes to a clip; every draw comes from the generator that is passed in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clcr.training.data.cache import MEL_PER_TOKEN, MODALITIES, TOKENS_PER_HOP, WINDOW_HOPS, Clip
from clcr.training.data.prepare import FACE_PX, GREY_PX
from clcr_stream.frontends.mel import SPEECH_MEL

_LN_PER_DB = float(np.log(10.0) / 10.0)
MEL_S = SPEECH_MEL.hop_samples / SPEECH_MEL.sample_rate_hz  # between two frames, of either log-mel
ROOM_S = (0.2, 1.2)  # until an echo has fallen by 60 dB
ROOM_DIRECT_DB = (-3.0, 12.0)  # the direct sound above the echo


@dataclass(frozen=True)
class Augment:
    """How strongly to augment; a probability of 0 or a range of 0 switches a change off."""

    flip_p: float = 0.5
    shift: float = 0.1  # of the face's side, each way
    scale: float = 0.1
    rotate_deg: float = 8.0
    brightness: float = 30.0  # grey levels
    contrast: float = 0.3
    grey_p: float = 0.5  # colour clips: the large face sets are grey
    coarse_p: float = 0.3  # colour clips through 48 px, the resolution of those sets
    film_p: float = 0.0  # a photograph is held still for so many slots of a film
    film_slots: tuple[int, int] = (2, 60)
    crop_hops: tuple[int, int] = (5, 20)  # 1 to 4 s, clips with video
    audio_crop_p: float = 0.3  # sound alone is cropped this often
    gain_db: float = 10.0
    warp: float = 0.12  # of the frequency axis, each way: another vocal tract
    stretch: float = 0.12  # of the time axis, each way, sound alone: another tempo
    noise_p: float = 0.5
    noise_snr_db: tuple[float, float] = (0.0, 30.0)
    room_p: float = 0.0  # an echo that decays
    colour_db: float = 0.0  # of a microphone: how much louder or softer bands are, smoothly
    narrow_p: float = 0.0  # a telephone or codec: low and high bands are lost
    mask_p: float = 0.5
    mask_bands: int = 10
    mask_frames: int = 20
    token_dropout: float = 0.05  # words, and video slots of clips
    modality_dropout: float = 0.15

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """An augmented copy of `clip` with its frames at model size, RGB (n, 112, 112, 3).

        Of an encoded clip only parts are left out; how it looks and sounds was changed before it was encoded.
        """
        clip = self._drop_modalities(self._crop(clip, rng), rng)
        if len(clip.slots) > 1:
            clip = _drop_slots(clip, rng.random(len(clip.slots)) >= self.token_dropout)
        if not clip.encoded:
            clip = self.changed(clip, rng)
        return replace(clip, tokens=self._words(clip.tokens, rng))

    def changed(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """All of the clip, as it would look and sound elsewhere; frames at model size."""
        return replace(
            clip,
            frames=self._frames(clip.frames, rng),
            mel=self._sound(clip, rng) if len(clip.mel) else clip.mel,
        )

    def _crop(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """The same random span of video and sound; never more than a window."""
        least, most = self.crop_hops
        if not len(clip.slots) and rng.random() >= self.audio_crop_p:
            least = most = WINDOW_HOPS
        hops = min(clip.hops, int(rng.integers(least, most + 1)))
        start = int(rng.integers(0, clip.hops - hops + 1))
        return clip.span(start, start + hops)

    def _drop_modalities(self, clip: Clip, rng: np.random.Generator) -> Clip:
        present = np.flatnonzero(clip.present)
        if len(present) < 2:
            return clip
        kept = present[rng.random(len(present)) >= self.modality_dropout]
        if not len(kept):
            kept = rng.choice(present, 1)
        return clip.only([MODALITIES[index] for index in kept])

    def _frames(self, frames: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """One geometry and one light for all frames of a clip."""
        import cv2

        if not len(frames):
            return np.zeros((0, FACE_PX, FACE_PX, 3), np.uint8)
        matrix = self._geometry(frames.shape[1], rng)
        levels = np.arange(256) - 127.5
        gain = 1.0 + rng.uniform(-self.contrast, self.contrast)
        light = levels * gain + 127.5 + rng.uniform(-self.brightness, self.brightness)
        table = np.clip(np.rint(light), 0, 255).astype(np.uint8)
        grey, coarse = rng.random() < self.grey_p, rng.random() < self.coarse_p
        out = np.empty((len(frames), FACE_PX, FACE_PX, 3), np.uint8)
        for index, frame in enumerate(frames):
            image: Any = frame
            if frame.ndim == 3 and coarse:
                image = cv2.resize(image, (GREY_PX, GREY_PX), interpolation=cv2.INTER_AREA)
                image = cv2.resize(image, (FACE_PX, FACE_PX), interpolation=cv2.INTER_LINEAR)
            if frame.ndim == 3 and grey:
                image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
            image = cv2.warpAffine(image, matrix, (FACE_PX, FACE_PX), borderMode=cv2.BORDER_REPLICATE)
            image = cv2.LUT(image, table)
            out[index] = image if image.ndim == 3 else image[..., None]
        return out

    def _geometry(self, side: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Affine 2 x 3 from the stored face to the model's, about the centre."""
        angle = np.deg2rad(rng.uniform(-self.rotate_deg, self.rotate_deg))
        zoom = FACE_PX / side * (1.0 + rng.uniform(-self.scale, self.scale))
        flip = -1.0 if rng.random() < self.flip_p else 1.0
        turn = zoom * np.array([[np.cos(angle) * flip, -np.sin(angle)], [np.sin(angle) * flip, np.cos(angle)]])
        moved = (FACE_PX - 1) / 2 + rng.uniform(-self.shift, self.shift, 2) * FACE_PX
        return np.column_stack([turn, moved - turn @ np.full(2, (side - 1) / 2)])

    def _sound(self, clip: Clip, rng: np.random.Generator) -> NDArray[np.float32]:
        mel, alone, floor = clip.mel, not len(clip.slots), float(np.log(clip.mel_floor))
        mel = _resampled(mel, 1.0 + rng.uniform(-self.warp, self.warp), axis=1, length=mel.shape[1])
        if alone:
            tempo = 1.0 + rng.uniform(-self.stretch, self.stretch)
            longest = WINDOW_HOPS * TOKENS_PER_HOP * MEL_PER_TOKEN
            mel = _resampled(mel, tempo, axis=0, length=min(longest, max(MEL_PER_TOKEN, int(len(mel) / tempo))))
        offset = int(rng.integers(0, MEL_PER_TOKEN)) if len(mel) > MEL_PER_TOKEN else 0
        mel = mel[offset : offset + (len(mel) - offset) // MEL_PER_TOKEN * MEL_PER_TOKEN]
        if self.room_p and rng.random() < self.room_p:
            mel = self._room(mel, floor, rng)
        gain = rng.uniform(-self.gain_db, self.gain_db) * _LN_PER_DB
        # Digital silence has no energy to amplify.
        out = np.where(mel > floor + 0.01, np.maximum(mel + np.float32(gain), floor), floor)
        out = out.astype(np.float32)
        if rng.random() < self.noise_p:
            out = np.logaddexp(out, self._noise(out, rng))
        if self.colour_db:
            out = np.where(out > floor + 0.01, np.maximum(out + self._colour(out.shape[1], rng), floor), floor)
        if self.narrow_p and rng.random() < self.narrow_p:
            out = np.maximum(out - _lost_bands(out.shape[1], rng), floor)
        if rng.random() < self.mask_p:
            mean = out.mean()
            out[:, _stripe(out.shape[1], self.mask_bands, rng)] = mean
            out[_stripe(out.shape[0], min(self.mask_frames, len(out) // 4), rng)] = mean
        return out

    def _noise(self, mel: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        """Steady noise with a random tilt, below the loud part of the sound by a random ratio."""
        snr = rng.uniform(*self.noise_snr_db) * _LN_PER_DB
        bands = mel.shape[1]
        tilt = np.linspace(-1.0, 1.0, bands, dtype=np.float32) * np.float32(rng.uniform(-2.0, 2.0))
        flutter = rng.standard_normal(mel.shape, dtype=np.float32) * np.float32(0.6)
        level = np.float32(np.quantile(mel.mean(axis=1), 0.9) - snr)
        return np.asarray(level + tilt + flutter, np.float32)

    def _room(self, mel: NDArray[np.float32], floor: float, rng: np.random.Generator) -> NDArray[np.float32]:
        """With an echo: a power that decays exponentially, twice as fast in the highest band as in the lowest."""
        decay_s = rng.uniform(*ROOM_S) * np.linspace(1.0, 0.5, mel.shape[1])
        kept = np.exp(-60.0 * _LN_PER_DB * MEL_S / decay_s)
        share = np.exp(-rng.uniform(*ROOM_DIRECT_DB) * _LN_PER_DB) * (1.0 - kept)
        power, echo = np.where(mel > floor + 0.01, np.exp(mel.astype(np.float64)), 0.0), np.zeros(mel.shape[1])
        out = np.empty_like(power)
        for index, direct in enumerate(power):
            out[index] = direct + echo
            echo = kept * echo + share * direct
        return np.log(np.maximum(out, np.exp(floor))).astype(np.float32)

    def _colour(self, bands: int, rng: np.random.Generator) -> NDArray[np.float32]:
        """A smooth curve over the bands, at most `colour_db` each way."""
        waves = np.cos(np.pi * np.outer(np.arange(1, 5), (np.arange(bands) + 0.5) / bands))
        shares = rng.uniform(-1.0, 1.0, 4) / (1.0, 2.0, 3.0, 4.0)
        return (shares @ waves * (self.colour_db * _LN_PER_DB / 2.1)).astype(np.float32)

    def _words(self, tokens: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        kept = rng.random(len(tokens)) >= self.token_dropout
        kept[:1] = kept[-1:] = True  # [CLS] and [SEP]
        if kept.sum() <= 2:
            return tokens
        return tokens[kept]


def at_model_size(clip: Clip) -> Clip:
    """The clip with its frames as RGB (n, 112, 112, 3) and nothing else changed; an encoded clip as it is."""
    import cv2

    if clip.encoded:
        return clip
    out = np.empty((len(clip.frames), FACE_PX, FACE_PX, 3), np.uint8)
    for index, frame in enumerate(clip.frames):
        image: Any = frame
        if frame.shape[0] != FACE_PX:
            image = cv2.resize(image, (FACE_PX, FACE_PX), interpolation=cv2.INTER_LINEAR)
        out[index] = image if image.ndim == 3 else image[..., None]
    return replace(clip, frames=out)


def _drop_slots(clip: Clip, kept: NDArray[np.bool_]) -> Clip:
    """Mask the slots that are not kept, unless that would leave no frame."""
    slots = clip.slots & kept
    if not slots.any():
        return clip
    return replace(clip, frames=clip.frames[kept[clip.slots]], slots=slots)


def _resampled(mel: NDArray[np.float32], step: float, axis: int, length: int) -> NDArray[np.float32]:
    """Linear interpolation along one axis at 0, step, 2 * step, ...; the last value is held beyond the end."""
    at = np.minimum(np.arange(length) * step, mel.shape[axis] - 1)
    low = np.minimum(at.astype(np.int64), mel.shape[axis] - 2) if mel.shape[axis] > 1 else np.zeros(length, np.int64)
    share = (at - low).astype(np.float32)
    share = share[:, None] if axis == 0 else share
    high = np.minimum(low + 1, mel.shape[axis] - 1)
    moved: NDArray[np.float32] = mel.take(low, axis) * (1.0 - share) + mel.take(high, axis) * share
    return moved


def _lost_bands(bands: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """What a narrow channel takes from each band: up to a tenth of them below, up to three tenths above."""
    lost = np.zeros(bands, np.float32)
    depth = np.float32(rng.uniform(20.0, 60.0) * _LN_PER_DB)
    lost[: int(bands * rng.uniform(0.0, 0.1))] = depth
    lost[int(bands * rng.uniform(0.7, 1.0)) :] = depth
    return lost


def _stripe(length: int, most: int, rng: np.random.Generator) -> slice:
    width = int(rng.integers(0, most + 1))
    start = int(rng.integers(0, length - width + 1))
    return slice(start, start + width)
