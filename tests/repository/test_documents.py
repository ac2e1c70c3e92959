"""Every command that a document shows is proved as tests/support/document_proofs.py says, which has an entry for each.

A new command in a document fails until PROOFS knows it: `Run` runs it here in a folder of its own and looks at its
output, `ByTest` names the test that runs it, `Options` gives a reason for comparing its options with its --help alone,
`Foreign` is a command of another program or machine. Options of our own commands are always compared with --help.
"""

from __future__ import annotations

import ast
import contextlib
import html
import io
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from clcr_stream.bundle.loader import load_bundle
from document_proofs import PROOFS, ByTest, Foreign, Run
from job_clips import generated_clip
from tiny_bundle import write_bundle

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = Path(sys.executable).parent
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "examples/README.md")),
    ROOT / "tools/README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
COMMANDS = r"(\.venv/bin/|clcr-|python3?\b|pip\b|sudo\b|scripts/|tools/|\.ci/|umask\b|cp\b|export\b|kill\b)"
FOREIGN = (
    "/opt/trt86/python",
    'python -c "import tensorrt',
    "sudo",
    "export",
    "pip",
    "python3 -m venv",
    "kill",
)


def commands_of(path: Path) -> list[str]:
    """Each command of a document's shell blocks (fenced as `sh`, or indented and beginning like one), as in PROOFS."""
    text = path.read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for block in re.findall(r"(?:^ {4}.*\n)+", re.sub(r"(?ms)^```.*?^```", "", text), re.MULTILINE):
        if re.match(COMMANDS, block.strip()):
            blocks.append(block)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    bare = (" ".join(re.sub(r"(^|\s)#.*", "", line).split()) for line in lines)
    return [re.sub(r"(^|(?<= ))\.venv/bin/", "", line) for line in bare if line]


SHOWN = {command: path.name for path in DOCUMENTS for command in commands_of(path)}


def test_every_command_of_a_document_has_a_proof_and_every_proof_a_command() -> None:
    new = {command: name for command, name in SHOWN.items() if command not in PROOFS}
    assert new == {}, "say in PROOFS how each is proved: Run, ByTest, Options or Foreign"
    assert [command for command in PROOFS if command not in SHOWN] == [], "no document shows these any more"


@pytest.mark.parametrize("command", [c for c, proof in PROOFS.items() if isinstance(proof, Foreign)])
def test_only_commands_of_others_are_foreign(command: str) -> None:
    assert command.startswith(FOREIGN), command


@pytest.mark.parametrize("test", sorted({proof.test for proof in PROOFS.values() if isinstance(proof, ByTest)}))
def test_a_test_that_proves_a_command_exists(test: str) -> None:
    file, _, function = test.partition("::")
    assert function in functions_of(file)


@cache
def functions_of(file: str) -> set[str]:
    """The functions of a file."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@cache
def help_of(command: str) -> str:
    """Of the tools and of what loads torch in this process: tests/tools/test_tools.py starts each tool by its path."""
    name, *rest = command.split()
    if name == "clcr-stream" or rest[:1] == ["-m"]:
        done = shell(f"{command} --help", ROOT)
        assert done.returncode == 0, f"{command} --help: {done.stderr}"
        return done.stdout
    shown = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(shown):
        patch.setattr(sys, "argv", [rest[0] if rest else name, "--help"])
        patch.setattr(sys, "path", list(sys.path))
        patch.setenv("COLUMNS", "120")
        with pytest.raises(SystemExit) as ended:
            if rest:
                runpy.run_path(str(ROOT / rest[0]), run_name="__main__")
            else:
                (entry,) = entry_points(group="console_scripts", name=name)
                sys.exit(entry.load()())
    assert ended.value.code == 0, f"{command} --help"
    return shown.getvalue()


def own_options() -> Iterator[tuple[str, str]]:
    """Each (command with its subcommand, option) of our own that a document shows."""
    for command, proof in PROOFS.items():
        if isinstance(proof, Foreign) or command.startswith(("scripts/", ".ci/", "python -c")):
            continue
        for part in command.split(" | "):
            words = [word for word in shlex.split(part) if word != "&"]
            head = words[: 3 if words[1:2] == ["-m"] else 2 if words[0].startswith("python") else 1]
            if head == ["clcr-stream"] and words[1:] and not words[1].startswith("-"):
                head = words[:2]
            for word in words[len(head) :]:
                if re.fullmatch(r"--?[a-zA-Z][\w-]*(=.*)?", word) and word != "--help":
                    yield " ".join(head), word.split("=")[0]


@pytest.mark.parametrize(("command", "option"), sorted(set(own_options())))
def test_an_option_that_a_document_shows_is_in_the_command_s_help(command: str, option: str) -> None:
    assert re.search(rf"(?<![\w-]){re.escape(option)}\b", help_of(command))


def environment(folder: Path) -> dict[str, str]:
    """This environment's commands first, and the user's folders in `folder`."""
    path = f"{SCRIPTS}:{os.environ['PATH']}"
    own = {"XDG_RUNTIME_DIR": str(folder), "HOME": str(folder), "XDG_CONFIG_HOME": str(folder / ".config")}
    return {**os.environ, **own, "PATH": path, "COLUMNS": "120"}


def shell(line: str, folder: Path, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a line as a user would who has the environment's commands on the path."""
    settings = environment(home or folder)
    command = ["bash", "-c", line]
    return subprocess.run(
        command, cwd=folder, env=settings, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240
    )


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like the checkout to a command, with a clip and its words; what is written stays in it."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("configs", "docs", "engines", "examples", "tools"):
        (folder / name).symlink_to(ROOT / name)
    clip = generated_clip(folder, seconds=2.6)
    clip.video.rename(folder / "talk.mp4")
    assert clip.srt is not None
    clip.srt.rename(folder / "talk.srt")
    return folder


@pytest.fixture(scope="class")
def sockets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the sockets of two sessions, default and left, that run while the tests of a class do.

    Their readers are what is tested, so they hear only, and their engines are small.
    """
    folder = tmp_path_factory.mktemp("run")
    write_bundle(folder / "bundle")
    running = []
    for stream in ("default", "left"):
        command = [str(SCRIPTS / "clcr-stream"), "--camera", "none", "--mic", "test://", "--quiet", "--output", "-"]
        command += ["--stream", stream, "--bundle", str(folder / "bundle")]
        session = subprocess.Popen(command, env=environment(folder), stdout=subprocess.PIPE)
        assert session.stdout is not None
        with session.stdout as output:
            assert b'"session"' in output.readline()  # the endpoint is bound
            drain = subprocess.Popen(["cat"], stdin=output, stdout=subprocess.DEVNULL)
        running.append((session, drain))
    yield folder
    for session, drain in running:
        session.terminate()
        assert session.wait(timeout=20) == 0
        drain.wait(timeout=20)


def first_lines(line: str, count: int, folder: Path, home: Path) -> str:
    """The first lines of an output that has no end."""
    with subprocess.Popen(
        ["bash", "-c", f"exec {line}"],
        cwd=folder,
        env={**environment(home), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        patience = threading.Timer(60, process.kill)  # then readline returns nothing, and the pattern does not match
        patience.start()
        shown = "".join(process.stdout.readline() for _ in range(count))
        patience.cancel()
        process.kill()
    return shown


def commands_to_run(with_session: bool) -> list[str]:
    runs = [(command, proof) for command, proof in PROOFS.items() if isinstance(proof, Run)]
    return [command for command, proof in runs if (proof.session is not None) is with_session]


@pytest.mark.parametrize("command", commands_to_run(with_session=False))
def test_a_command_that_a_document_shows_does_what_is_said(command: str, checkout: Path, tmp_path: Path) -> None:
    does_what_is_said(command, checkout, tmp_path)


class TestBesideASession:
    @pytest.mark.parametrize("command", commands_to_run(with_session=True))
    def test_a_command_that_a_document_shows_does_what_is_said(
        self, command: str, checkout: Path, sockets: Path
    ) -> None:
        does_what_is_said(command, checkout, sockets)


def does_what_is_said(command: str, checkout: Path, home: Path) -> None:
    """Run a command as PROOFS says; `home` holds the user's folders, and the sockets of a session."""
    proof = PROOFS[command]
    assert isinstance(proof, Run)
    line = command
    for word, other in proof.instead:
        assert word in line
        line = line.replace(word, other.replace("SOCKETS", str(home)))
    if proof.lines:
        shown = first_lines(line, proof.lines, checkout, home)
    else:
        done = shell(line, checkout, home)
        shown = done.stdout + done.stderr
        assert done.returncode == proof.code, shown
    assert re.search(proof.says, shown, re.MULTILINE), shown


def test_the_output_file_of_the_readme_s_command_holds_the_messages_that_the_guide_names(checkout: Path) -> None:
    path = checkout / "talk.jsonl"
    if not path.exists():  # when this test runs alone
        shell("clcr-stream --input talk.mp4 --transcript talk.srt --pace max --output talk.jsonl", checkout)
    kinds = {json.loads(line)["type"] for line in path.read_text(encoding="utf-8").splitlines()}
    assert kinds == {"session", "prediction", "transcript", "status"}


# What the view of the demo prints where there is no terminal, line by line.
VIEW = {
    "model": r"model default \([0-9a-f]{12}\) on \w+",
    "second": r" +\d+\.\d s   [a-z]+ +0\.\d\d [█-▏ ]+ face +(\d+ %|no)  sound +(\d+ %|no)  words (yes|no) +\d+ ms",
    "words": r' +"[a-z \']+"',
    "account": r"\d+ predictions, \d+ skipped",
    "latency": r"capture to publish: p50 \d+ ms, p95 \d+ ms, p99 \d+ ms",
}
# On a busy machine also this, until the first frame and sound are there.
EARLY = {"nothing": r" +\d+\.\d s   no input +face +no  sound +no  words no +\d+ ms"}

# The same on a terminal, redrawn in place.
BARS = {
    "model": VIEW["model"],
    "words": VIEW["words"],
    "answer": r" +\d+\.\d s   [a-z]+ +0\.\d\d",
    "bar": r"   [a-z]+ +0\.\d\d( [█-▏]+)?",  # a small share has none
    "inputs": r"   face +(\d+ %|no)  sound +(\d+ %|no)  words (yes|no) +\d+ ms",
}


def kinds_of(lines: list[str], patterns: dict[str, str]) -> set[str]:
    """Which kinds of line the view printed; a line of no kind, and not of the bundle's notice, is an error."""
    notice = " ".join(load_bundle(ROOT / "engines/default").manifest.intended_use.notice.split())
    found = set()
    for line in lines:
        kinds = [kind for kind, pattern in patterns.items() if re.fullmatch(pattern, line)]
        kinds += ["notice"] if line in notice else []
        assert kinds, f"the view does not print {line!r}"
        found |= set(kinds)
    return found


def test_the_demo_prints_a_line_of_every_kind(tmp_path: Path) -> None:
    ready = shell("source scripts/lib.sh; is_current dev || is_current live", ROOT, tmp_path)
    if ready.returncode != 0:
        pytest.skip("scripts/demo would set up .venv first; scripts/test has done that where it runs")
    done = shell("scripts/demo --duration 5", ROOT, tmp_path)
    assert done.returncode == 0, done.stderr
    assert kinds_of(done.stdout.splitlines(), VIEW | EARLY) - {*EARLY} == {*VIEW, "notice"}


def test_the_picture_in_the_readme_shows_a_line_of_every_kind() -> None:
    picture = (ROOT / "docs/pictures/session.svg").read_text(encoding="utf-8")
    lines = [html.unescape(line) for line in re.findall(r'xml:space="preserve">([^<]+)</text>', picture)]
    assert kinds_of(lines, BARS) == {*BARS, "notice"}


@pytest.mark.parametrize("command", [c for c in PROOFS if c.startswith("scripts/test ")])
def test_the_selections_of_tests_that_documents_show_select_some(command: str) -> None:
    arguments = command.removeprefix("scripts/test ").replace("faults", "tests/faults")  # as scripts/test does
    if "/" not in arguments:  # of a file that holds both kinds: collecting every file takes half a minute
        arguments += " tests/repository/test_repository.py"
    count = shell(
        f"python -m pytest --collect-only -q -p no:cacheprovider -p no:hypothesispytest {arguments} | tail -1", ROOT
    ).stdout
    found = re.match(r"(\d+)(?:/(\d+))? tests? collected", count)
    assert found and int(found[1]) > 0, count
    assert "-m" not in arguments or int(found[1]) < int(found[2] or 0), count
