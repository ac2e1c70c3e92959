"""Draw the guide's pictures of `clcr-stream top` and `clcr-stream view`: real ones, of a generated session (test://).

    python tools/docs/watching.py             writes docs/pictures/top.svg and docs/pictures/view.png
    python tools/docs/watching.py --top       only the terminal, which needs no browser

The session runs for SHOWN_S before its picture is taken, so that a minute is full. Nobody real is ever in them.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/support"))

from browser import Browser  # noqa: E402
from terminal import Terminal  # noqa: E402

PICTURES = ROOT / "docs/pictures"
COLUMNS, ROWS = 100, 27
SHOWN_S = 66.0
COMMAND = [sys.executable, "-m", "clcr_stream"]


def top(environment: dict[str, str]) -> None:
    """The terminal's screen as SVG, with its colours."""
    with Terminal([*COMMAND, "top", "test"], environment, COLUMNS, ROWS) as terminal:
        terminal.shows(lambda _: False, SHOWN_S)
        lines = [_line(terminal, row) for row in range(ROWS)]
        terminal.press("q")
        terminal.ends()
    console = Console(record=True, width=COLUMNS, file=Path(os.devnull).open("w"), force_terminal=True)
    for line in lines:
        console.print(line, no_wrap=True, crop=True)
    svg = re.sub(r"@font-face \{[^}]*\}\s*", "", console.export_svg(title="clcr-stream top"))  # fonts of another host
    (PICTURES / "top.svg").write_text(svg.replace("Fira Code", "DejaVu Sans Mono"), encoding="utf-8")


def _line(terminal: Terminal, row: int) -> Text:
    """A row of the screen with the styles of its characters."""
    cells = terminal.screen.buffer[row]
    text = Text()
    for column in range(COLUMNS):
        cell = cells[column]
        colour = f"#{cell.fg}" if len(cell.fg) == 6 and cell.fg not in ("yellow",) else cell.fg
        words = [word for word, there in (("bold", cell.bold), ("reverse", cell.reverse)) if there]
        words += [] if colour == "default" else ["yellow" if colour == "brown" else colour]
        text.append(cell.data, " ".join(words))
    return text


def view(environment: dict[str, str], folder: Path) -> None:
    """The page as PNG."""
    with subprocess.Popen([*COMMAND, "view", "test"], env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            with Browser(folder, 1280, 900) as browser:
                browser.open(url)
                browser.eventually("document.querySelectorAll('#scores li').length > 1")
                top(environment)  # meanwhile a minute passes for the page too
                browser.ask("1")
                browser.picture(PICTURES / "view.png")
        finally:
            process.terminate()


def main() -> int:
    """Write the pictures; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--top", action="store_true", help="only the terminal's picture")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        environment = os.environ | {
            "XDG_RUNTIME_DIR": name,
            "TERM": "xterm-256color",
            "PYTHONPATH": str(ROOT / "runtime"),
        }
        environment.pop("NO_COLOR", None)
        own = ["--stream", "test"]  # another one of the user's may run
        session = subprocess.Popen([*COMMAND, *own, "--input", "test://", "--quiet"], env=environment)
        try:
            if flags.top:
                top(environment)
            else:
                view(environment, Path(name))
        finally:
            session.terminate()
            session.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
