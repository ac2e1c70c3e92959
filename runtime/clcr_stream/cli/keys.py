"""`clcr-stream keys`: CURVE keys for endpoints that other machines read, and who may read."""

from __future__ import annotations

from collections.abc import Sequence

from clcr_stream.cli.arguments import EXIT_CODES, Parser
from clcr_stream.cli.standard_streams import put, put_json, say
from clcr_stream.errors import ConfigError
from clcr_stream.wire.keys import Key, KeyFolder, default_keys_folder, expanded

EXAMPLES = """examples:
  clcr-stream keys new server                        a key of ours; prints its public half
  clcr-stream keys allow reader.key                  who has the other half of that may read
  clcr-stream keys allow 'THE 40 CHARACTERS' --name tablet
  clcr-stream keys list
  clcr-stream keys revoke tablet                     counts within a second, also for a reader that is connected
"""
ACTIONS = ("new", "list", "allow", "revoke")


def parser() -> Parser:
    """The flags of `keys`."""
    flags = Parser(
        prog="clcr-stream keys",
        description="Make CURVE keys, and say who may read what is published with them.",
        epilog=f"{EXAMPLES}\n{EXIT_CODES}",
    )
    flags.add_argument("action", choices=ACTIONS)
    flags.add_argument(
        "what", nargs="?", metavar="WHAT", help="new: a NAME; allow, revoke: a NAME, a .key file or the key's text"
    )
    flags.add_argument("--name", metavar="NAME", help="allow: what to call it (default: the file's name)")
    flags.add_argument("--dir", metavar="DIR", help=f"folder of the keys (default: {default_keys_folder()})")
    flags.add_argument("--json", action="store_true", help="list: as one JSON object")
    return flags


def command(arguments: Sequence[str]) -> int:
    """Do what is asked; results on standard output, advice on standard error."""
    flags = parser().parse_args(arguments)
    folder = KeyFolder(expanded(flags.dir) if flags.dir is not None else default_keys_folder())
    if (flags.what is None) != (flags.action == "list"):
        takes = "nothing" if flags.what else "a WHAT"
        raise ConfigError(f"keys {flags.action} takes {takes}; see `clcr-stream keys --help`")
    for name, action in (("name", "allow"), ("json", "list")):
        if getattr(flags, name) and flags.action != action:
            raise ConfigError(f"--{name} goes with `keys {action}` only")
    match flags.action:
        case "new":
            key = folder.new(flags.what)
            put(key.public)
            say(f"made {folder.folder / key.name}.key (public, printed here) and .key_secret (stays on this machine)")
        case "allow":
            key = folder.allow(flags.what, flags.name)
            say(f"{key.name} may read; running sessions need no restart. To end it: clcr-stream keys revoke {key.name}")
        case "revoke":
            for key in folder.revoke(flags.what):
                say(f"{key.name} may no longer read; running sessions end its connection within a second or two")
        case _:
            _list(folder, flags.json)
    return 0


def _list(folder: KeyFolder, as_json: bool) -> None:
    own, allowed = folder.own(), folder.allowed()
    if as_json:
        put_json({"folder": str(folder.folder), "own": _plain(own), "allowed": _plain(allowed)})
        return
    if not own:
        say(f"no keys in {folder.folder}; make one: clcr-stream keys new server")
    width = max((len(key.name) for key in (*own, *allowed)), default=0)
    for title, keys in (("own", own), ("allowed", allowed)):
        for key in keys:
            note = "" if key.has_secret or title == "allowed" else "  (public half only)"
            put(f"{title:<7}  {key.name:<{width}}  {key.public}{note}")


def _plain(keys: Sequence[Key]) -> list[dict[str, str]]:
    return [{"name": key.name, "public": key.public} for key in keys]
