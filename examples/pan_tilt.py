"""A toy robot head that follows a face, and acts only on what is fresh, confident and not degraded.

    python examples/pan_tilt.py [ENDPOINT [STREAM]]

A machine that moves must rather do nothing than act on something old, uncertain or half blind: the reasons for standing
still are the point of this example. Replace `Head.move` with your servos.
"""

import signal
import sys
from dataclasses import dataclass

from clcr_stream.client import Prediction, Received, Subscriber

MAX_AGE_MS = 400  # two hops
MIN_CONFIDENCE = 0.5
FIELD_OF_VIEW = (60.0, 40.0)  # degrees, of your camera
GAIN = 0.3  # of the error, at each prediction: a head that turns all the way at once overshoots
LIMITS = (60.0, 25.0)
SILENCE_MS = 1000  # then the publisher is gone or cut off


@dataclass
class Head:
    """Where the head looks, degrees."""

    pan: float = 0.0
    tilt: float = 0.0

    def move(self, pan: float, tilt: float) -> None:
        """Stands for two servos."""
        self.pan = max(-LIMITS[0], min(LIMITS[0], pan))
        self.tilt = max(-LIMITS[1], min(LIMITS[1], tilt))
        print(f"move pan {self.pan:+.1f} tilt {self.tilt:+.1f}", flush=True)


def reason_to_wait(received: Received) -> str | None:
    """Why not to act on a message; None when it may be acted on."""
    prediction = received.message
    if not isinstance(prediction, Prediction):
        return "no prediction"
    if received.age_ms is None:
        return "another host's clock: its age is not known"
    if received.age_ms > MAX_AGE_MS:
        return f"{received.age_ms:.0f} ms old"
    if prediction.degraded and set(prediction.degraded) != {"language_absent"}:  # words are not needed to follow a face
        return f"degraded: {','.join(prediction.degraded)}"
    if prediction.confidence is None or prediction.confidence < MIN_CONFIDENCE:
        return "not confident"
    if prediction.face is None or prediction.face.box is None:
        return "no face"
    return None


def follow(head: Head, received: Received) -> None:
    """Turn a little towards the face, or say why not."""
    why = reason_to_wait(received)
    if why is not None:
        print(f"hold: {why}", flush=True)
        return
    assert isinstance(received.message, Prediction) and received.message.face is not None
    left, top, width, height = received.message.face.box or (0.5, 0.5, 0.0, 0.0)
    right_of_centre, below_centre = left + width / 2 - 0.5, top + height / 2 - 0.5
    head.move(
        head.pan + GAIN * FIELD_OF_VIEW[0] * right_of_centre,
        head.tilt - GAIN * FIELD_OF_VIEW[1] * below_centre,
    )


def main(endpoint: str | None = None, stream: str = "default") -> None:
    """Until Ctrl-C; without predictions the head stays where it is."""
    head = Head()
    with Subscriber(endpoint, stream) as subscriber:
        while True:
            received = subscriber.receive(timeout_ms=SILENCE_MS)
            if received is not None:
                follow(head, received)
            else:
                print("hold: nothing comes", flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly when `| head` has seen enough, and at Ctrl-C
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    main(*sys.argv[1:])
