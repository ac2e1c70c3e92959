"""The numbers that were measured on pictures and sound: what they are called, and how a person reads them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from clcr_stream.wire import messages


@dataclass(frozen=True)
class Measure:
    """One number of a modality's messages; `name` says what it is, `short` in a line with others.

    `unit` "%" is of a share 0..1; `digits` are those behind the point.
    """

    modality: str
    key: str
    name: str
    short: str
    unit: str = ""
    digits: int = 0

    @property
    def column(self) -> str:
        """What it is called in tables."""
        return f"{self.modality}_{self.key}"

    def of(self, prediction: messages.Prediction) -> messages.Number:
        """Its value; None where it was not measured."""
        modality: messages.Modality = getattr(prediction.modalities, self.modality)
        return modality.quality if self.key == "quality" else modality.numbers.get(self.key)

    def text(self, value: float) -> str:
        """A value with its unit."""
        number = f"{100 * value if self.unit == '%' else value:.{self.digits}f}"
        return f"{number} {self.unit}" if self.unit else number


# Words have none. Sound has no quality in one number.
MEASURES = (
    Measure("vision", "quality", "quality of the face crops, 0 to 1", "quality", digits=2),
    Measure("vision", "luma", "light in the pictures", "light", "%"),
    Measure("vision", "sharpness", "sharpness of the face", "sharpness"),
    Measure("vision", "face_size", "height of the face in the picture", "face", "%"),
    Measure("acoustic", "level_dbfs", "level of the sound", "level", "dBFS"),
    Measure("acoustic", "noise_dbfs", "noise: the level of its quiet tenth", "noise", "dBFS"),
    Measure("acoustic", "snr_db", "signal-to-noise ratio", "SNR", "dB"),
    Measure("acoustic", "speech_share", "share of the time with speech", "speech", "%"),
)


def measures_of(modality: str) -> Iterator[Measure]:
    """Those of one modality."""
    return (measure for measure in MEASURES if measure.modality == modality)


def line_of(prediction: messages.Prediction, modality: str) -> str:
    """What was measured, in a few words; "" for nothing."""
    known = ((measure, measure.of(prediction)) for measure in measures_of(modality))
    return "  ".join(f"{measure.short} {measure.text(value)}" for measure, value in known if value is not None)
