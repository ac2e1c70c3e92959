"""`clcr-stream devices`: the cameras, X screens and microphones of this machine."""

from __future__ import annotations

from collections.abc import Sequence

from clcr_stream.cli.arguments import EXIT_CODES, Parser
from clcr_stream.cli.cells import printable
from clcr_stream.cli.standard_streams import put, put_json
from clcr_stream.errors import ClcrError
from clcr_stream.sources import devices
from clcr_stream.sources.v4l2 import Offer, ask_driver


def parser() -> Parser:
    """The flags of `devices`."""
    flags = Parser(
        prog="clcr-stream devices",
        description="List the cameras of this machine with their modes, its X screens and microphones.",
        epilog=EXIT_CODES,
    )
    flags.add_argument("--json", action="store_true", help="print JSON")
    return flags


def command(arguments: Sequence[str]) -> int:
    """List them; a machine without any is no error."""
    flags = parser().parse_args(arguments)
    cameras, displays = devices.list_cameras(), devices.list_screens()
    offers = [ask_driver(camera["device"]) for camera in cameras]
    microphones: list[dict[str, str | int]] = []
    problem = None
    try:
        microphones = devices.list_microphones()
    except ClcrError as error:
        problem = str(error)
    if flags.json:
        put_json(
            {
                "cameras": [
                    {**camera, "modes": [str(mode) for mode in offer.modes], "unread": offer.unread}
                    for camera, offer in zip(cameras, offers, strict=True)
                ],
                "screens": [{"display": display} for display in displays],
                "microphones": microphones,
                "microphone_problem": problem,
            }
        )
    else:
        lines = [*_camera_lines(cameras, offers), *_other_lines(displays, microphones, problem)]
        put("\n".join(map(printable, lines)))
    return 0


def _camera_lines(cameras: list[dict[str, str]], offers: list[Offer]) -> list[str]:
    lines = []
    for camera, offer in zip(cameras, offers, strict=True):
        lines.append(f"camera      {camera['device']}  {camera['name']}")
        lines += [f"            {mode}" for mode in offer.modes]
        if offer.why_not:
            lines.append(f"            {offer.why_not}")
    return lines or ["camera      none found; use --camera test:// or --input FILE"]


def _other_lines(displays: list[str], microphones: list[dict[str, str | int]], problem: str | None) -> list[str]:
    lines = [f"screen      screen://{display}" for display in displays]
    lines += [f"microphone  {one['index']}  {one['name']}  {one['rate_hz']} Hz" for one in microphones]
    if not microphones:
        lines.append(f"microphone  none found{'; ' + problem if problem else ''}")
    return lines
