"""Write docs/schema/<kind>.schema.json from the message structs, or say which are out of date.

    python tools/docs/schema.py [--check]

Exit code 0: written, or up to date; 1 with --check: one line per stale file on stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from clcr_stream.wire.messages import KINDS
from clcr_stream.wire.schema import json_schema

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "schema"


def main() -> int:
    """Write the four files, or compare them when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file is not up to date")
    check = parser.parse_args().check
    stale = 0
    for kind in KINDS:
        path = FOLDER / f"{kind}.schema.json"
        text = json.dumps(json_schema(kind), indent=2, ensure_ascii=False) + "\n"
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            print(f"{path}: not what the structs say; run `python tools/docs/schema.py`", file=sys.stderr)
            stale += 1
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
