"""`clcr-stream models`: the models of speech recognition on this machine."""

from __future__ import annotations

from collections.abc import Sequence

from clcr_stream.cli.arguments import EXIT_CODES, Parser
from clcr_stream.cli.cells import printable
from clcr_stream.cli.standard_streams import put, put_json, say
from clcr_stream.errors import SourceError
from clcr_stream.sources.speech import models, whisper


def parser() -> Parser:
    """The flags of `models`."""
    flags = Parser(
        prog="clcr-stream models",
        description="List the models of speech recognition on this machine; `--transcript auto` takes the first.",
        epilog="Nothing is ever downloaded but by --fetch.\n\n" + EXIT_CODES,
    )
    flags.add_argument("--fetch", metavar="NAME", help=f"download one of {', '.join(models.KNOWN)}")
    flags.add_argument("--check", action="store_true", help="load each model and let it hear a second of silence")
    flags.add_argument("--json", action="store_true", help="print JSON")
    return flags


def command(arguments: Sequence[str]) -> int:
    """List them, load them with --check, or download one with --fetch; a machine without any is no error."""
    flags = parser().parse_args(arguments)
    if flags.fetch is not None:
        say(f"fetching {flags.fetch} ...")
        models.fetch(flags.fetch)
    here = list(models.models())
    problems = {str(model.folder): whisper.problem(model) for model in here} if flags.check else {}
    if flags.json:
        put_json(
            {
                "installed": models.installed(),
                "models": [
                    {
                        "name": model.name,
                        "folder": str(model.folder),
                        "origin": model.origin,
                        "size_bytes": model.size_bytes,
                        **({"problem": problems[str(model.folder)]} if flags.check else {}),
                    }
                    for model in here
                ],
            }
        )
    else:
        put("\n".join(map(printable, _lines(here, problems))))
    if any(problems.values()):
        raise SourceError("; ".join(f"{folder}: {text}" for folder, text in problems.items() if text))
    return 0


def _lines(here: Sequence[models.Model], problems: dict[str, str | None]) -> list[str]:
    lines = []
    for model in here:
        checked = ""
        if str(model.folder) in problems:
            checked = f"  {problems[str(model.folder)] or 'works'}"
        lines.append(f"{model.name:<10} {model.size_bytes / 1e6:6.0f} MB  {model.origin}  {model.folder}{checked}")
    if not models.installed():
        lines.append(f"faster-whisper is not installed; run `{models.INSTALL}`")
    elif not here:
        lines.append(f"no model; run `{models.INSTALL}` or `clcr-stream models --fetch tiny.en`")
    return lines
