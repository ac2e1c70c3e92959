"""Put the output of a real `scripts/demo` with the shipped bundle into README.md; run it when the bundle has changed.

    python tools/docs/readme.py

Replaces the first ```text block. A test fails while README.md shows another bundle than engines/default.
"""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```text\n.*?^```", re.MULTILINE | re.DOTALL)
COLUMNS = 118


def demo_output() -> str:
    """What `scripts/demo --input test://` prints on standard output, long lines folded."""
    command = [str(ROOT / "scripts/demo"), "--input", "test://"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True)
    lines = [part for line in done.stdout.splitlines() for part in textwrap.wrap(line, COLUMNS, drop_whitespace=False)]
    return "\n".join(line.rstrip() for line in lines)


def main() -> int:
    """Rewrite README.md; returns the exit code."""
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    if not BLOCK.search(text):
        print(f"update_readme: {path} has no ```text block to replace", file=sys.stderr)
        return 1
    block = f"```text\n$ scripts/demo\n{demo_output()}\n```"
    path.write_text(BLOCK.sub(lambda _: block, text, count=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
