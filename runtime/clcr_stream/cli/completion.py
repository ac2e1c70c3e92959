"""`clcr-stream completion SHELL`: what the Tab key knows of our commands, made from their own parsers.

The script is made once, by this command, and then loads nothing of ours: completing starts no Python.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from clcr_stream.cli.arguments import EXIT_CODES, Parser
from clcr_stream.cli.commands import COMMANDS
from clcr_stream.cli.run import run_parser
from clcr_stream.cli.standard_streams import put

EXAMPLES = """examples:
  clcr-stream completion bash >~/.local/share/bash-completion/completions/clcr-stream
  clcr-stream completion zsh >~/.zsh/_clcr-stream    a folder of $fpath
  clcr-stream completion fish >~/.config/fish/completions/clcr-stream.fish
"""
SHELLS = ("bash", "zsh", "fish")
_RUN = "run"  # a plain `clcr-stream`, which has no name


@dataclass(frozen=True)
class _Option:
    names: tuple[str, ...]
    help: str
    takes: bool
    choices: tuple[str, ...]


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
        cases.append(f'        {name}) words="{" ".join(words)}" ;;')
        for option in options:
            if option.takes:
                pattern = "|".join(f"{name}:{text}" for text in option.names)
                chosen = f'words="{" ".join(option.choices)}"' if option.choices else "files=1"
                values.append(f"        {pattern}) {chosen} ;;")
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
            '        case "$current" in -*) ;; *) [ "$COMP_CWORD" -gt 1 ] && files=1 ;; esac',
            "    fi",
            '    COMPREPLY=($(compgen -W "$words" -- "$current"))',
            '    [ -n "$files" ] && COMPREPLY+=($(compgen -f -- "$current"))',
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
                value = f":value:({' '.join(option.choices)})" if option.choices else ":value:_files"
                lines.append(f"            '{text}[{shown}]{value if option.takes else ''}' \\")
        positional = _positional(one)
        lines.append(
            f"            '*:what:({' '.join(positional)})' ;;" if positional else "            '*:file:_files' ;;"
        )
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
            value = f" -x -a '{' '.join(option.choices)}'" if option.choices else " -r" if option.takes else ""
            lines.append(f"complete -c clcr-stream -n '{when}' {flags}{value} -d '{_quoted(option.help)}'")
        for text in _positional(one):
            lines.append(f"complete -c clcr-stream -n '{when}' -f -a '{text}'")
    return "\n".join(lines)


def _options(one: argparse.ArgumentParser) -> Iterator[_Option]:
    for action in one._actions:  # argparse shows them in no other way
        if action.option_strings:
            text = "" if action.help is None else " ".join((action.help % {"prog": one.prog}).split())
            choices = tuple(map(str, action.choices)) if action.choices else ()
            yield _Option(tuple(action.option_strings), text, action.nargs != 0, choices)


def _positional(one: argparse.ArgumentParser) -> tuple[str, ...]:
    return tuple(
        str(choice) for action in one._actions if not action.option_strings for choice in (action.choices or ())
    )


def _zsh_text(text: str) -> str:
    for sign, other in (("'", "’"), ("[", "("), ("]", ")"), (":", " ")):
        text = text.replace(sign, other)
    return text


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")
