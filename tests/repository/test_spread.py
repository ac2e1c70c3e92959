"""How the suite is spread over processes: the tables name tests that exist, and a file stays in one process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

import spread

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("start", [*spread.LONGEST_FIRST, *spread.GROUPS, *spread.SLOW])
def test_every_entry_of_the_tables_names_tests_that_exist(start: str) -> None:
    path, _, name = start.partition("::")
    assert (ROOT / path).exists()
    if name:
        assert re.search(rf"^(?:def |class )?{name}", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), start


def test_files_of_a_group_are_one_unit_and_the_longest_file_comes_first() -> None:
    for path, group in spread.GROUPS.items():
        assert spread.unit_of(f"{path}::test_x[a::b]") == group
    assert len(set(spread.GROUPS.values())) < len(spread.GROUPS)
    assert spread.unit_of("tests/wire/test_client.py::test_x[a::b]") == "tests/wire/test_client.py"
    longest = spread.LONGEST_FIRST[0]
    assert spread.rank_of(f"{longest}::test_x") == 0 < spread.rank_of("tests/wire/test_client.py::test_x")


def test_a_file_stays_in_one_process_and_the_files_are_spread() -> None:
    pytest.importorskip("xdist")
    files = ["tests/test_errors.py", "tests/wire/test_endpoint.py"]
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider"]
    command += ["-p", "no:hypothesispytest", "-n", "2", "--dist", "loadscope"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [*command, *files], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    workers: defaultdict[str, set[str]] = defaultdict(set)
    for worker, path in re.findall(r"^\[(gw\d)\] .* (tests/\S+?\.py)::", done.stdout, re.MULTILINE):
        workers[path].add(worker)
    assert sorted(workers) == files
    assert [len(names) for names in workers.values()] == [1, 1]
    assert len(set.union(*workers.values())) == 2


def test_no_two_files_of_tests_have_one_name() -> None:
    """pytest imports them by name alone: the second one would stop the run of the whole suite."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("*.py"))
    assert [name for name, count in names.items() if count > 1] == []
