"""Draw README's picture of a live session: `scripts/demo` in a real terminal, its screen as SVG.

    python tools/docs/picture.py            writes docs/pictures/session.svg; run it when the bundle has changed

The session runs in a pseudo-terminal, pyte keeps its screen, and what stands there at SHOWN_S of the session is drawn.
A test fails while the picture shows another bundle than engines/default.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
from pathlib import Path
from xml.sax.saxutils import escape

import pyte

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs/pictures/session.svg"
COLUMNS, ROWS = 118, 16
SHOWN_S = 11.0  # the words have been heard by then
COMMAND = ("scripts/demo", "--input", "test://")
CELL_PX, LINE_PX, EDGE_PX = 8.0, 19.0, 18.0
_TIME = re.compile(r"^ *(\d+\.\d) s ")


def screen_of(command: tuple[str, ...], shown_s: float) -> list[str]:
    """The lines of a session's terminal once its time has reached `shown_s`."""
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": str(ROWS)}
    with subprocess.Popen(command, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        try:
            while process.poll() is None:
                if not select.select([ours], [], [], 0.2)[0]:
                    continue
                try:
                    stream.feed(os.read(ours, 65536))
                except OSError:  # the other end is closed
                    break
                times = [float(match[1]) for line in screen.display if (match := _TIME.match(line))]
                if times and times[-1] >= shown_s:
                    return [line.rstrip() for line in screen.display]
        finally:
            process.terminate()
            os.close(ours)
    raise SystemExit(f"picture: `{' '.join(command)}` ended before {shown_s:g} s of the session were shown")


def drawn(lines: list[str], title: str) -> str:
    """The lines as an SVG of a terminal window; text stays text."""
    while lines and not lines[-1]:
        lines = lines[:-1]
    width = 2 * EDGE_PX + COLUMNS * CELL_PX
    top = EDGE_PX + 2 * LINE_PX
    height = top + len(lines) * LINE_PX + EDGE_PX / 2
    rows = "\n".join(
        f'<text x="{EDGE_PX:g}" y="{top + number * LINE_PX:g}" xml:space="preserve">{escape(line)}</text>'
        for number, line in enumerate(lines)
    )
    dots = "".join(
        f'<circle cx="{EDGE_PX + 6 + 20 * number:g}" cy="20" r="6" fill="{colour}"/>'
        for number, colour in enumerate(("#ff5f57", "#febc2e", "#28c840"))
    )
    label = escape(title)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img">
<title>{label}</title>
<style>text {{ font: 13.3px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: #e6edf3; }}</style>
<rect width="100%" height="100%" rx="10" fill="#0d1117"/>
{dots}
<text x="{width / 2:g}" y="25" text-anchor="middle" style="fill: #8b949e">{label}</text>
{rows}
</svg>
"""


def main() -> int:
    """Write the picture; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    subprocess.run(
        [COMMAND[0], "--help"], cwd=ROOT, stdout=subprocess.DEVNULL, check=True
    )  # set up before the picture is taken
    lines = screen_of(COMMAND, SHOWN_S)
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(drawn(lines, "scripts/demo"), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
