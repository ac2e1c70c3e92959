"""What the drawn person looked and sounded like when this was recorded: benchmarks compare across versions by it.

python tests/support/person_golden.py       writes tests/golden/person.npz anew, after a change on purpose
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clcr_stream.sources.synthetic.person import MANNERS, Person, PersonOptions

PATH = Path(__file__).resolve().parents[1] / "golden/person.npz"
TIMES_S = (0.37, 1.16, 2.93, 4.61)  # three within the speech, one in the pause after it
BLOCK_PX = 20
RATE_HZ, SAMPLES = 16_000, 192


def record() -> dict[str, NDArray[Any]]:
    """Per emotion and time: mean colours of blocks of the picture, and a stretch of the sound."""
    pictures, sounds = [], []
    for emotion in MANNERS:
        person = Person(PersonOptions(emotion=emotion), RATE_HZ)
        for time_s in TIMES_S:
            picture = person.picture(time_s).astype(np.float32)
            height, width, colours = picture.shape
            blocks = picture.reshape(height // BLOCK_PX, BLOCK_PX, width // BLOCK_PX, BLOCK_PX, colours)
            pictures.append(blocks.mean(axis=(1, 3)).round().astype(np.uint8))
            sounds.append(person.sound(round(time_s * RATE_HZ), SAMPLES))
    return {"pictures": np.stack(pictures), "sounds": np.stack(sounds)}


if __name__ == "__main__":
    np.savez_compressed(PATH, **record())  # type: ignore[arg-type]  # numpy's stub takes the names for its flags
