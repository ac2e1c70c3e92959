"""The command line: `clcr-stream` runs a session; its other commands, such as `doctor` and `sub`, help around it.

Signal handlers stand before anything slow is imported, which is why the imports are inside the functions.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from clcr_stream.cli import signals
from clcr_stream.cli.commands import COMMANDS


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; its exit code. Every error becomes one line on stderr.

    Without `argv` this is the process's own command line, and its signals and standard streams are taken care of.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments.pop(0) if arguments and arguments[0] in COMMANDS else "run"
    if argv is not None:
        return _exit_code(name, arguments)
    if name in ("run", "sub", "top", "view"):
        signals.end_at_once()
    else:
        signals.die_of()
    from clcr_stream.cli.standard_streams import flush_stdout, keep_stderr, open_closed

    open_closed()
    keep_stderr()
    return flush_stdout(_exit_code(name, arguments))


def _exit_code(name: str, arguments: Sequence[str]) -> int:
    """Run a command: the one place where errors become lines and codes."""
    from clcr_stream.cli.standard_streams import forget_stdout, say
    from clcr_stream.errors import ClcrError

    try:
        return _command(name)(arguments)
    except SystemExit as end:  # argparse's --help and --version
        return end.code if isinstance(end.code, int) else 0
    except ClcrError as error:
        say(f"clcr-stream: error: {' '.join(str(error).split())}")
        return error.exit_code
    except BrokenPipeError:
        # The reader of our stdout has gone, as in `clcr-stream sub | head`.
        forget_stdout()
        return 0
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        say(f"clcr-stream: error: {_fault(error)}")
        return 1


def _command(name: str) -> Callable[[Sequence[str]], int]:
    """The function of a command; its module is imported now."""
    match name:
        case "build":
            from clcr_stream.cli.build import command
        case "completion":
            from clcr_stream.cli.completion import command
        case "devices":
            from clcr_stream.cli.devices import command
        case "doctor":
            from clcr_stream.cli.doctor import command
        case "export":
            from clcr_stream.cli.export import command
        case "keys":
            from clcr_stream.cli.keys import command
        case "models":
            from clcr_stream.cli.models import command
        case "predict":
            from clcr_stream.cli.predict import command
        case "ps":
            from clcr_stream.cli.ps import command
        case "replay":
            from clcr_stream.cli.replay import command
        case "report":
            from clcr_stream.cli.report import command
        case "stop":
            from clcr_stream.cli.stop import command
        case "sub":
            from clcr_stream.cli.sub import command
        case "top":
            from clcr_stream.cli.top import command
        case "view":
            from clcr_stream.cli.view import command
        case _:
            from clcr_stream.cli.run import command
    return command


def _fault(error: Exception) -> str:
    """One line about an exception that nobody expected, with the place in our code that it came from."""
    import traceback

    from clcr_stream.errors import one_line

    places = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
    ours = [place for place in places if "clcr_stream" in place] or places
    return one_line(
        f"a fault of clcr-stream at {ours[-1]}: {type(error).__name__}: {error}; "
        "please report it with what `PYTHONDEVMODE=1 clcr-stream ...` prints"
    )
