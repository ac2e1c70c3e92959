"""Shell completion: what real shells complete with the scripts that the command prints."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from clcr_stream.cli import completion
from clcr_stream.cli.commands import COMMANDS


def run(*command: str) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.fixture(scope="module")
def bash(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "script"
    path.write_text(completion.bash())
    return path


def completed(script: Path, *words: str) -> list[str]:
    line = f'. {script}; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _clcr_stream; printf "%s\\n" "${{COMPREPLY[@]}}"'
    return run("bash", "-c", line, "-", "clcr-stream", *words)


def test_bash_completes_commands_options_values_and_files(bash: Path, tmp_path: Path) -> None:
    assert set(completed(bash, "")) >= {*COMMANDS, "--camera"}
    assert completed(bash, "sub", "--js") == ["--json"]
    assert completed(bash, "--rot") == ["--rotate"]
    assert completed(bash, "--pace", "") == ["real", "max"]
    assert completed(bash, "keys", "re") == ["revoke"]
    assert completed(bash, "sub", "--topics", "s") == ["session", "status"]
    assert completed(bash, "--backend", "") == ["auto", "onnxruntime", "tensorrt", "null"]
    (tmp_path / "talk.mp4").touch()
    found = [f"{tmp_path}/talk.mp4"]
    for words in (["predict"], ["--input"], ["--camera"], ["sub", "--curve-secret"], ["doctor", "--bundle"]):
        assert completed(bash, *words, f"{tmp_path}/ta") == found, words
    for words in (["stop"], ["keys", "new"], ["--stream"], ["--duration"], ["sub", "--topics"], ["--backend"], ["top"]):
        assert completed(bash, *words, f"{tmp_path}/ta") == [], words
    assert completed(bash, "--camera", "no") == ["none"]


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish")
def test_fish_completes_commands_options_and_values(tmp_path: Path) -> None:
    script = tmp_path / "clcr-stream.fish"
    script.write_text(completion.fish())

    def complete(line: str) -> list[str]:
        source = f"set -x HOME {tmp_path}; source {script}; complete -C '{line}'"
        done = subprocess.run(
            ["fish", "--no-config", "-c", source], capture_output=True, text=True, timeout=60, check=True
        )
        return [shown.split("\t")[0] for shown in done.stdout.splitlines()]

    assert {"ps", "predict"} == set(complete("clcr-stream p"))
    assert complete("clcr-stream sub --js") == ["--json"]
    assert complete("clcr-stream --pace m") == ["max"]
    assert complete("clcr-stream sub --topics s") == ["session", "status"]
    (tmp_path / "talk.mp4").touch()
    for words in ("predict", "--input", "--camera"):
        assert complete(f"clcr-stream {words} {tmp_path}/ta") == [f"{tmp_path}/talk.mp4"], words
    for words in ("stop", "keys new", "--stream", "sub --topics"):
        assert complete(f"clcr-stream {words} {tmp_path}/ta") == [], words


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh")
def test_zsh_takes_the_script(tmp_path: Path) -> None:
    script = tmp_path / "_clcr-stream"
    script.write_text(completion.zsh())
    assert run("zsh", "-f", "-n", str(script)) == []
    (tmp_path / "driver").write_text(
        "zmodload zsh/zpty; zpty z zsh -f -i\n"
        f"zpty -w z 'PS1=; fpath=({tmp_path} $fpath); autoload -U compinit; compinit -u -D; echo rea\"\"dy'\n"
        "zpty -r z out '*ready*'\n"
        "zpty -w -n z $'clcr-stream sub --tim\\t'; zpty -r z out '*--timeout*' && echo found\n"
        "zpty -w -n z $'\\x15clcr-stream --pace m\\t'; zpty -r z out '*--pace max*' && echo found\n"
        "zpty -w -n z $'\\x15clcr-stream sub --topics pre\\t'; zpty -r z out '*--topics prediction*' && echo found\n"
        "zpty -w -n z $'\\x15clcr-stream --mic no\\t'; zpty -r z out '*--mic none*' && echo found\n"
        "zpty -d z\n"
    )
    assert run("zsh", "-f", str(tmp_path / "driver")) == ["found"] * 4


def test_values_are_known_of_options_that_there_are() -> None:
    usage = " ".join(parser.format_usage() for parser in completion.parsers().values())
    assert all(f"[{name} " in usage for name in completion.WORDS)


def test_every_option_of_every_command_is_in_every_script() -> None:
    scripts = (completion.bash(), completion.zsh(), completion.fish())
    for parser in completion.parsers().values():
        for line in parser.format_usage().split("["):
            word = line.split()[0].rstrip("]") if line.split() else ""
            if word.startswith("--"):
                assert all(word[2:] in script for script in scripts), word
