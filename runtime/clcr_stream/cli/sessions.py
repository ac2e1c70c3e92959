"""Sessions that are read from files, for the commands that take one."""

from __future__ import annotations

from pathlib import Path

from clcr_stream.errors import SourceError
from clcr_stream.recording.story import Story, read_story
from clcr_stream.sources.base import BOTH


def read_session(file: str, session: str | None, of_a_clip: str) -> Story:
    """As `read_story`; of a video or sound file the SourceError says what to run."""
    path = Path(file).expanduser()
    try:
        return read_story(path, session)
    except SourceError as error:
        from clcr_stream.sources.media import check_media_file

        try:
            check_media_file(str(path), BOTH, "input")
        except SourceError:
            raise error from None
        raise SourceError(f"{file}: a clip and not a session; {of_a_clip}") from error
