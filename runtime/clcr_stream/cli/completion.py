"""`clcr-stream completion SHELL`: what the Tab key knows of our commands, made from their own parsers.

The script is made once, by this command, and then loads nothing of ours: completing starts no Python.
"""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from clcr_stream.cli.arguments import EXIT_CODES, Parser
from clcr_stream.cli.commands import COMMANDS
from clcr_stream.cli.run import run_parser
from clcr_stream.cli.standard_streams import put
from clcr_stream.inference.choose import BACKENDS
from clcr_stream.wire.messages import KINDS

EXAMPLES = """examples:
  clcr-stream completion bash >~/.local/share/bash-completion/completions/clcr-stream
  clcr-stream completion zsh >~/.zsh/_clcr-stream    a folder of $fpath
  clcr-stream completion fish >~/.config/fish/completions/clcr-stream.fish
"""
SHELLS = ("bash", "zsh", "fish")
_RUN = "run"  # a plain `clcr-stream`, which has no name
# Values that argparse does not check: of a list with commas, of the configuration, beside files and devices.
WORDS: Mapping[str, Sequence[str]] = {
    "--topics": KINDS,
    "--backend": BACKENDS,
    "--require": ("vision", "acoustic"),
    "--camera": ("none",),
    "--mic": ("default", "none"),
    "--transcript": ("auto", "none"),
}
_FILES = re.compile("FILE|DIR|CLIP|WHICH")  # in the name of a value: a file may stand there


@dataclass(frozen=True)
class _Option:
    names: tuple[str, ...]
    help: str
    takes: bool
    choices: tuple[str, ...]
    files: bool  # its value may be a file


def parser() -> Parser:
    """The flags of `completion`."""
    flags = Parser(
        prog="clcr-stream completion",
        description="Print what a shell needs to complete our commands and options.",
        epilog=f"{EXAMPLES}\n{EXIT_CODES}",
    )
    flags.add_argument("shell", choices=SHELLS)
    return flags


def command(arguments: Sequence[str]) -> int:
    """Print the script."""
    flags = parser().parse_args(arguments)
    put({"bash": bash, "zsh": zsh, "fish": fish}[flags.shell]())
    return 0


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command, and of a plain run."""
    found: dict[str, argparse.ArgumentParser] = {_RUN: run_parser()}
    for name in COMMANDS:
        found[name] = importlib.import_module(f"clcr_stream.cli.{name}").parser()
    return found


def bash() -> str:
    """For bash, with or without the package bash-completion."""
    cases = []
    values = []
    for name, one in parsers().items():
        options = list(_options(one))
        words = [text for option in options for text in option.names] + list(_positional(one))
        files = "files=1 " if _takes_files(one) else ""
        cases.append(f'        {name}) words="{" ".join(words)}" {files};;')
        for option in options:
            if option.takes:
                pattern = "|".join(f"{name}:{text}" for text in option.names)
                chosen = f'words="{" ".join(option.choices)}"; ' if option.choices else ""
                values.append(f"        {pattern}) {chosen}files={int(option.files)} ;;")
    return "\n".join(
        [
            "# clcr-stream: bash completion, made by `clcr-stream completion bash`",
            "_clcr_stream() {",
            '    local current="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}"',
            f'    local command={_RUN} commands="{" ".join(COMMANDS)}" words="" files=""',
            "    COMPREPLY=()",
            '    case " $commands " in',
            '        *" ${COMP_WORDS[1]} "*) [ "$COMP_CWORD" -gt 1 ] && command="${COMP_WORDS[1]}" ;;',
            "    esac",
            '    case "$command:$previous" in',
            *values,
            "    esac",
            '    if [ -z "$words$files" ]; then',
            '        case "$command" in',
            *cases,
            "        esac",
            '        [ "$COMP_CWORD" = 1 ] && words="$commands $words"',
            '        case "$current" in -*) files="" ;; esac',
            "    fi",
            '    COMPREPLY=($(compgen -W "$words" -- "$current"))',
            '    [ "$files" = 1 ] && COMPREPLY+=($(compgen -f -- "$current"))',
            "}",
            "complete -o filenames -F _clcr_stream clcr-stream",
        ]
    )


def zsh() -> str:
    """For zsh, as a function of its completion system."""
    lines = ["#compdef clcr-stream", "# made by `clcr-stream completion zsh`", "_clcr_stream() {"]
    lines += ["    local -a commands=(" + " ".join(f"'{name}'" for name in COMMANDS) + ")"]
    lines += [f"    local command={_RUN}", "    (( CURRENT > 2 && $commands[(Ie)$words[2]] )) && command=$words[2]"]
    lines += [
        "    if (( CURRENT == 2 )) && [[ $words[2] != -* ]]; then",
        "        compadd -a commands",
        "        return",
    ]
    lines += ["    fi", "    (( CURRENT > 2 )) && [[ $command != run ]] && { shift words; (( CURRENT-- )) }"]
    lines += ["    case $command in"]
    for name, one in parsers().items():
        lines.append(f"        {name}) _arguments \\")
        for option in _options(one):
            for text in option.names:
                shown = _zsh_text(option.help)
                value = f":value:{_zsh_action(option.choices, option.files)}" if option.takes else ""
                lines.append(f"            '{text}[{shown}]{value}' \\")
        lines.append(f"            '*:what:{_zsh_action(_positional(one), _takes_files(one))}' ;;")
    return "\n".join([*lines, "    esac", "}", '_clcr_stream "$@"'])


def fish() -> str:
    """For fish."""
    lines = ["# clcr-stream: fish completion, made by `clcr-stream completion fish`"]
    names = " ".join(COMMANDS)
    for name, one in parsers().items():
        if name == _RUN:
            when = f"not __fish_seen_subcommand_from {names}"
        else:
            when = f"__fish_seen_subcommand_from {name}"
            lines.append(f"complete -c clcr-stream -n 'not __fish_seen_subcommand_from {names}' -f -a {name}")
        for option in _options(one):
            flags = " ".join(f"-l {text[2:]}" if text.startswith("--") else f"-s {text[1:]}" for text in option.names)
            value = (" -r -F" if option.files else " -x") if option.takes else ""
            value += f" -a '{' '.join(option.choices)}'" if option.choices else ""
            lines.append(f"complete -c clcr-stream -n '{when}' {flags}{value} -d '{_quoted(option.help)}'")
        if not _takes_files(one):
            lines.append(f"complete -c clcr-stream -n '{when}' -f")
        for text in _positional(one):
            lines.append(f"complete -c clcr-stream -n '{when}' -f -a '{text}'")
    return "\n".join(lines)


def _options(one: argparse.ArgumentParser) -> Iterator[_Option]:
    for action in one._actions:  # argparse shows them in no other way
        if action.option_strings:
            text = "" if action.help is None else " ".join((action.help % {"prog": one.prog}).split())
            names = tuple(action.option_strings)
            choices = tuple(map(str, action.choices)) if action.choices else tuple(WORDS.get(names[-1], ()))
            yield _Option(names, text, action.nargs != 0, choices, _may_be_file(action))


def _positional(one: argparse.ArgumentParser) -> tuple[str, ...]:
    return tuple(
        str(choice) for action in one._actions if not action.option_strings for choice in (action.choices or ())
    )


def _takes_files(one: argparse.ArgumentParser) -> bool:
    return any(_may_be_file(action) for action in one._actions if not action.option_strings)


def _may_be_file(action: argparse.Action) -> bool:
    return _FILES.search(str(action.metavar)) is not None


def _zsh_action(words: Sequence[str], files: bool) -> str:
    if words and files:
        return f"{{ compadd -- {' '.join(words)}; _files }}"
    return f"({' '.join(words)})" if words else "_files" if files else " "


def _zsh_text(text: str) -> str:
    for sign, other in (("'", "’"), ("[", "("), ("]", ")"), (":", " ")):
        text = text.replace(sign, other)
    return text


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")
