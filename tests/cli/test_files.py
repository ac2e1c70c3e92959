"""Files of results that grow: kept line by line, whole under their own name, in part under another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from clcr_stream.cli.files import growing_file
from clcr_stream.cli.tables import growing_csv
from clcr_stream.errors import ClcrError, ConfigError, OutputError


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.part"))


def test_a_row_is_kept_as_soon_as_it_is_written_and_the_table_gets_its_name_at_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.csv"
    with growing_csv(str(path), ["file", "p"]) as write:
        write(["a.mp4", 0.5])
        (part,) = parts(tmp_path)
        assert part.read_text() == "file,p\na.mp4,0.5\n" and not path.exists()
        write(["=b.mp4", None])
    assert path.read_text() == "file,p\na.mp4,0.5\n'=b.mp4,\n" and path.stat().st_mode & 0o777 == 0o600
    assert parts(tmp_path) == [] and capsys.readouterr().err == f"2 rows in {path}\n"


def test_an_error_leaves_what_there_is_and_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.csv"
    with pytest.raises(ClcrError, match="broken"), growing_csv(str(path), ["file"]) as write:
        write(["a.mp4"])
        raise ClcrError("broken")
    (part,) = parts(tmp_path)
    assert part.read_text() == "file\na.mp4\n" and not path.exists()
    assert f"not finished; what there is of it is in {str(part)!r}\n" in capsys.readouterr().err


def test_an_error_before_the_first_row_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ClcrError, match="broken"), growing_csv(str(tmp_path / "a.csv"), ["file"]):
        raise ClcrError("broken")
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().err == ""


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_came_meanwhile_stays_and_so_does_the_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr("clcr_stream.cli.files.os.link", no_links)
    path = tmp_path / "a.csv"
    with growing_file(str(path), "--csv") as write:
        write("1\n")
    assert path.read_text() == "1\n"
    other = tmp_path / "b.csv"
    with pytest.raises(OutputError, match="cannot get its name"), growing_file(str(other), "--csv") as write:
        write("2\n")
        other.write_text("theirs\n")
    assert other.read_text() == "theirs\n" and [part.read_text() for part in parts(tmp_path)] == ["2\n"]


def test_a_file_that_is_there_or_cannot_be_made_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.csv").touch()
    for name, why in (("a.csv", "exists already"), ("no/a.csv", "there is no folder")):
        with pytest.raises(ConfigError, match=why), growing_file(str(tmp_path / name), "--csv"):
            pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_kills_after_a_line_that_says_where_the_part_is(tmp_path: Path, number: signal.Signals) -> None:
    code = (
        "import signal, sys\n"
        "from clcr_stream.cli import signals\n"
        "from clcr_stream.cli.files import growing_file\n"
        "signals.die_of()\n"
        "with growing_file(sys.argv[1], '--csv') as write:\n"
        "    write('1\\n')\n"
        "    signal.raise_signal(int(sys.argv[2]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.csv"), str(int(number))],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ,
    )
    (part,) = parts(tmp_path)
    assert done.returncode == -number and part.read_text() == "1\n"
    assert done.stderr.count("\n") == 1 and done.stderr.endswith(f"what there is of it is in {str(part)!r}\n")
