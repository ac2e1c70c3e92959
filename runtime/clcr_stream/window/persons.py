"""Whether a face is still the same person's, told from when and where it was seen."""

from __future__ import annotations

from clcr_stream.clock import NS_PER_S

LOST_NS = 5 * NS_PER_S  # a face that was away for longer may be anybody's
Box = tuple[float, float, float, float]  # left, top, width, height as shares of the frame


class Persons:
    """Numbers the persons of one stream: 0, and one more whenever the face may be another's.

    That is when no face was seen for more than 5 s, or when the new place does not overlap the last one at all. The
    face finder follows a face without a jump, so a jump means that it lost one face and took another. Somebody who
    takes the same place within 5 s is not noticed. A face without a box is judged by its time alone.
    """

    def __init__(self) -> None:
        self._person = 0
        self._seen_ns: int | None = None
        self._box: Box | None = None

    def seen(self, captured_ns: int, box: Box | None) -> int:
        """A face was seen: the number of its person. A time before the newest one changes nothing."""
        if self._seen_ns is not None and captured_ns < self._seen_ns:
            return self._person
        lost = self._seen_ns is not None and captured_ns - self._seen_ns > LOST_NS
        jumped = self._box is not None and box is not None and not _overlap(self._box, box)
        self._person += int(lost or jumped)
        self._seen_ns, self._box = captured_ns, box
        return self._person


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]
