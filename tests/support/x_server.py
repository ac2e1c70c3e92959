"""A virtual X server of a test's own, whose screen is a file: what is written there is seen."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from types import TracebackType

import numpy as np

WIDTH, HEIGHT = 640, 480
PIXELS_AT = 160 + 256 * 12  # of an XWD file: its header and colour map


def missing_x() -> str | None:
    """Why there can be no X server here; None when there can."""
    return None if shutil.which("Xvfb") else "Xvfb is not installed: apt-get install xvfb"


class XServer:
    """Xvfb in a process of its own, with its screen's memory as a file in `folder`; a context manager."""

    def __init__(self, folder: Path, number: int | None = None) -> None:
        """`number` of the display, None for one that is free."""
        self._folder, self._number = folder, number
        self._process: subprocess.Popen[bytes] | None = None
        self.display = ""

    def __enter__(self) -> XServer:
        self._folder.mkdir(exist_ok=True)
        reader, writer = os.pipe()
        named = [f":{self._number}"] if self._number is not None else []
        command = [
            "Xvfb",
            *named,
            "-displayfd",
            str(writer),
            "-screen",
            "0",
            f"{WIDTH}x{HEIGHT}x24",
            "-nolisten",
            "tcp",
        ]
        # An X server begins anew when its last client leaves, and refuses others for a moment; not this one.
        command += ["-fbdir", str(self._folder), "-noreset"]
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(command, pass_fds=[writer], stdout=log, stderr=log)
        os.close(writer)
        with os.fdopen(reader, "rb") as answer:
            line = answer.readline()
        if not line:
            raise AssertionError(f"Xvfb does not start: {(self._folder / 'log').read_text()[-500:]}")
        self.display = f":{int(line)}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def show(self, rgb: np.ndarray, left: int = 0, top: int = 0) -> None:
        """Put a picture, (height, width, 3), on the black screen."""
        screen = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
        screen[top : top + rgb.shape[0], left : left + rgb.shape[1], :3] = rgb[:, :, ::-1]
        with (self._folder / "Xvfb_screen0").open("r+b") as file:
            file.seek(PIXELS_AT)
            file.write(screen.tobytes())

    def kill(self) -> None:
        """As a crash; a server that is killed leaves its lock behind, which the next one of its number removes."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """It answers nobody."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
