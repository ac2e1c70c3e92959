"""The plan cache: what is used again, what is refused and why, and what two builders at once do."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from clcr_stream.errors import BackendError
from clcr_stream.inference.tensorrt.plan_cache import Entry, PlanCache, default_folders

FIELDS = {"onnx": "aa", "tensorrt": "10.13", "gpu": "G", "driver": "13000", "profile": "1..4", "precision": "typed"}
NAME = "level1-aa-4"


class Maker:
    """Counts how often something was built; every build is different."""

    def __init__(self) -> None:
        self.built = 0

    def __call__(self) -> tuple[bytes, Mapping[str, Any]]:
        self.built += 1
        return b"plan %d" % self.built * 100, {"precision": {"fp32": 1.0}}


class Place:
    """A cache in a temporary folder with everything that a test may spoil."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.key = folder / "cache/plans", folder / "data/plan.key"
        self.make = Maker()
        self.said: list[str] = []

    def fetch(self, **changes: str) -> Entry:
        return PlanCache(self.folder, self.key).fetch(NAME, FIELDS | changes, self.make, self.said.append)

    @property
    def record(self) -> Path:
        return self.folder / f"{NAME}.json"

    @property
    def data(self) -> Path:
        (path,) = self.folder.glob("*.bin")
        return path


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_plan_is_built_once_and_then_read(place: Place) -> None:
    first, second = place.fetch(), place.fetch()
    assert place.make.built == 1
    assert (first.data, first.about) == (second.data, second.about)
    assert (first.reason, second.reason) == ("no plan was built yet", None)
    assert place.said == [f"{NAME}: no plan was built yet; building"]


def test_everything_in_the_cache_is_the_user_s_alone(place: Place) -> None:
    previous = os.umask(0)
    try:
        place.fetch()
    finally:
        os.umask(previous)
    for folder in (place.folder, place.key.parent):
        assert folder.stat().st_mode & 0o777 == 0o700
        files = [path for path in folder.iterdir() if path.is_file()]
        assert files
        assert [path.name for path in files if path.stat().st_mode & 0o777 != 0o600] == []


@pytest.mark.parametrize("field", sorted(FIELDS))
def test_a_field_that_differs_is_named_and_the_plan_built_again(place: Place, field: str) -> None:
    place.fetch()
    entry = place.fetch(**{field: "new"})
    assert place.make.built == 2
    assert entry.reason == f"{field} was {FIELDS[field]}, is new"
    assert place.fetch(**{field: "new"}).reason is None
    assert len(list(place.folder.glob("*.bin"))) == 1, "the old plan stayed behind"


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def edit(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


SPOILERS: dict[str, tuple[Callable[[Place], object], str]] = {
    "a flipped bit in the plan": (lambda p: flip(p.data, 5), "bytes were altered"),
    "a truncated plan": (lambda p: p.data.write_bytes(p.data.read_bytes()[:-1]), "has 599 bytes, its record says 600"),
    "a longer plan": (lambda p: p.data.write_bytes(p.data.read_bytes() + b"x"), "has 601 bytes"),
    "an empty plan": (lambda p: p.data.write_bytes(b""), "has 0 bytes"),
    "no plan": (lambda p: p.data.unlink(), "data is missing"),
    "an empty record": (lambda p: p.record.write_bytes(b""), "not valid JSON"),
    "a truncated record": (lambda p: p.record.write_bytes(p.record.read_bytes()[:40]), "not valid JSON"),
    "a list for a record": (lambda p: p.record.write_text("[]"), "not a JSON object"),
    "a deeply nested record": (lambda p: p.record.write_text("[" * 100_000), "not valid JSON|not a JSON object"),
    "another format": (lambda p: edit(p.record, format=2), "format was 2, is 1"),
    "a changed note": (lambda p: edit(p.record, about={"precision": {"fp16": 1.0}}), "keyed hash"),
    "a changed key field": (lambda p: edit(p.record, key=FIELDS | {"driver": "1"}), "keyed hash"),
    "no keyed hash": (lambda p: edit(p.record, mac=""), "keyed hash"),
    "a keyed hash that is no text": (lambda p: edit(p.record, mac=[1]), "keyed hash"),
    "a plan that others can write": (lambda p: p.data.chmod(0o622), "can be written by others \\(mode 0622\\)"),
    "a record that others can write": (lambda p: p.record.chmod(0o606), "can be written by others \\(mode 0606\\)"),
    "a linked plan": (lambda p: link(p.data), "cannot be read"),
    "a pipe for a record": (lambda p: replace_by_pipe(p.record), "is not a plain file"),
    "a key that others could read": (lambda p: p.key.chmod(0o640), "keyed hash"),
    "a short key": (lambda p: p.key.write_bytes(b"short"), "keyed hash"),
    "an empty key": (lambda p: p.key.write_bytes(b""), "keyed hash"),
    "no key": (lambda p: p.key.unlink(), "keyed hash"),
}


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def link(path: Path) -> None:
    path.rename(path.with_suffix(".elsewhere"))
    path.symlink_to(path.with_suffix(".elsewhere"))


@pytest.mark.parametrize("name", list(SPOILERS))
def test_a_spoilt_cache_is_refused_with_the_reason_and_healed(place: Place, name: str) -> None:
    spoil, reason = SPOILERS[name]
    place.fetch()
    spoil(place)
    entry = place.fetch()
    assert place.make.built == 2
    assert entry.reason is not None
    assert re.search(reason, entry.reason)
    assert place.fetch().reason is None


def test_a_plan_of_another_user_s_key_is_refused_though_it_is_whole(place: Place, tmp_path: Path) -> None:
    other = Place(tmp_path / "other")
    other.fetch()
    place.fetch()
    for path in (place.data, place.record):
        path.unlink()
    for path in (other.data, other.record):
        (place.folder / path.name).write_bytes(path.read_bytes())
        (place.folder / path.name).chmod(0o600)
    assert "not of this user's key" in str(place.fetch().reason)


def test_an_entry_under_another_name_is_refused(place: Place) -> None:
    place.fetch()
    cache = PlanCache(place.folder, place.key)
    place.record.rename(place.folder / "other.json")
    place.data.rename(place.folder / place.data.name.replace(NAME, "other"))
    assert str(cache.fetch("other", FIELDS, place.make, place.said.append).reason).startswith("the plan is of 'level1")


def test_a_folder_that_others_can_write_is_closed_and_its_plans_still_checked(place: Place) -> None:
    place.fetch()
    place.folder.chmod(0o777)
    flip(place.data, 0)
    assert place.fetch().reason is not None
    assert place.folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_cache_that_is_no_folder_is_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "plans"
    path.write_text("") if kind == "file" else path.symlink_to(tmp_path)
    with pytest.raises(BackendError, match="set XDG_CACHE_HOME") as caught:
        PlanCache(path, tmp_path / "key/plan.key").fetch(NAME, FIELDS, Maker(), print)
    assert "\n" not in str(caught.value)


def test_a_build_that_fails_leaves_no_entry_and_no_lock(place: Place) -> None:
    def fail() -> tuple[bytes, Mapping[str, Any]]:
        raise BackendError("no tactic")

    cache = PlanCache(place.folder, place.key)
    with pytest.raises(BackendError, match="no tactic"):
        cache.fetch(NAME, FIELDS, fail, print)
    assert [path.suffix for path in place.folder.iterdir()] == [".lock"]
    assert place.fetch().reason == "no plan was built yet"


def test_a_write_that_fails_leaves_no_half_file(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BackendError, match="cannot be written \\(No space left on device\\)"):
        place.fetch()
    assert [path.name for path in place.folder.glob("*")] == []


def test_two_threads_at_once_build_once(place: Place) -> None:
    """The second one finds the lock taken, waits, and reads what the first one built."""
    inside, go = threading.Event(), threading.Event()
    results: list[Entry] = []

    def slow() -> tuple[bytes, Mapping[str, Any]]:
        inside.set()
        assert go.wait(20)
        return place.make()

    def waiting(text: str) -> None:
        place.said.append(text)
        if "another process" in text:
            go.set()

    cache = PlanCache(place.folder, place.key)
    first = threading.Thread(target=lambda: results.append(cache.fetch(NAME, FIELDS, slow, place.said.append)))
    first.start()
    assert inside.wait(20)
    second = threading.Thread(target=lambda: results.append(cache.fetch(NAME, FIELDS, place.make, waiting)))
    second.start()
    for thread in (first, second):
        thread.join(20)
    assert place.make.built == 1
    assert results[0].data == results[1].data
    assert f"{NAME}: another process is building it; waiting" in place.said


def test_processes_at_once_end_with_one_whole_plan_and_one_key(place: Place) -> None:
    code = (
        "import sys, os\n"
        "from pathlib import Path\n"
        "from clcr_stream.inference.tensorrt.plan_cache import PlanCache\n"
        "made = []\n"
        "make = lambda: made.append(1) or (os.urandom(1 << 20), {})\n"
        "cache = PlanCache(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "entry = cache.fetch('n', {'a': 'b'}, make, lambda text: None)\n"
        "import hashlib; print(len(made), hashlib.sha256(entry.data).hexdigest())\n"
    )
    command = [sys.executable, "-c", code, str(place.folder), str(place.key)]
    path = {"PYTHONPATH": str(Path(__file__).resolve().parents[2] / "runtime")}
    running = [subprocess.Popen(command, env=os.environ | path, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = [process.communicate(timeout=60)[0].split() for process in running]
    assert [process.returncode for process in running] == [0] * 4
    assert sorted(count for count, _ in said) == ["0", "0", "0", "1"]
    assert len({digest for _, digest in said}) == 1


def test_a_builder_that_was_killed_does_not_lock_the_others_out(place: Place) -> None:
    place.fetch()
    lock = place.folder / f"{NAME}.lock"
    code = f"import fcntl, os; f = open({str(lock)!r}); fcntl.flock(f, fcntl.LOCK_EX); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code], timeout=20)
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert place.fetch(driver="new").reason is not None


def test_a_stored_entry_is_loaded_under_the_same_fields_only(place: Place) -> None:
    cache = PlanCache(place.folder, place.key)
    assert cache.load("timing", FIELDS) is None
    cache.store("timing", FIELDS, b"one")
    cache.store("timing", FIELDS, b"two")
    assert cache.load("timing", FIELDS) == b"two"
    assert cache.load("timing", FIELDS | {"gpu": "H"}) is None


@pytest.mark.parametrize("name", ["../x", "", "a/b", ".hidden", "a" * 200])
def test_a_name_that_is_a_path_is_refused(place: Place, name: str) -> None:
    with pytest.raises(BackendError, match="is not a plain name"):
        PlanCache(place.folder, place.key).fetch(name, FIELDS, place.make, print)
    assert place.make.built == 0


def test_the_folders_follow_xdg_and_the_key_is_not_in_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "d"))
    assert default_folders() == (tmp_path / "c/clcr-stream/plans", tmp_path / "d/clcr-stream/plan.key")
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folders()[0] == tmp_path / ".cache/clcr-stream/plans"


def test_a_forgotten_entry_is_made_anew_and_forgetting_nothing_is_nothing(place: Place) -> None:
    cache = PlanCache(place.folder, place.key)
    cache.forget(NAME)
    place.fetch()
    cache.forget(NAME)
    assert cache.load(NAME, FIELDS) is None
    assert place.fetch().reason == "no plan was built yet"
    assert place.make.built == 2 and place.data.read_bytes().startswith(b"plan 2")


def test_a_lock_that_cannot_be_made_is_one_line(place: Place) -> None:
    (place.folder / f"{NAME}.lock").mkdir(parents=True)
    with pytest.raises(BackendError, match=f"{NAME}.lock cannot be made"):
        place.fetch()
    assert place.make.built == 0
