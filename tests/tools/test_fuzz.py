"""Every decoder under changed inputs for some seconds, and the fuzzer itself: it finds what it should."""

from __future__ import annotations

import time
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clcr_stream.errors import ConfigError

fuzz: Any = import_module("fuzz")
judge: Any = import_module("fuzzing.judge")

SECONDS = 20.0


def test_every_decoder_answers_or_raises_its_documented_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code = fuzz.main(["--seconds", str(SECONDS), "--seed", "12", "--keep", str(tmp_path / "faults")])
    shown = capsys.readouterr().out
    assert code == 0, shown
    assert shown.splitlines()[-1].endswith(" 0 faults") and list((tmp_path / "faults").iterdir()) == []
    counts = [int(line.split()[1]) for line in shown.splitlines()[:-1]]
    assert len(counts) >= 19 and min(counts) > 3, "each had its turn"


def broken(data: bytes) -> None:
    """A decoder with a fault of each kind."""
    if data.startswith(b"H"):
        while True:
            pass
    if b"z" in data:
        raise ZeroDivisionError(data)
    if data.startswith(b"c"):
        raise ConfigError("documented")


def test_a_fault_of_each_kind_is_found_and_a_documented_error_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "HANG_S", 0.05)
    target = judge.Target("broken", broken, (ConfigError,), [b"a", b"c", b"z", b"H"])
    found = {fault.data[:1]: fault.what for fault in judge.fuzz([target], 0.0, 1)}
    assert sorted(found) == [b"H", b"z"]
    assert "ZeroDivisionError" in found[b"z"] and found[b"H"].startswith("hangs")


def test_a_case_that_takes_much_memory_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = iter((100_000, 500_000))
    usage = lambda _: SimpleNamespace(ru_maxrss=next(peaks))  # noqa: E731
    monkeypatch.setattr(judge.resource, "getrusage", usage)
    with judge.Watch() as watch:
        found = judge.judge(judge.Target("large", len, (), [b"a"]), b"a", watch)
    assert found is not None and found.what == "takes 391 MB"


def test_changes_find_a_fault_behind_a_byte_and_tell_it_once_with_its_input() -> None:
    target = judge.Target("broken", broken, (ConfigError,), [b'{"a": 1}', b"clcr/default"])
    begun_s = time.monotonic()
    told: list[Any] = []
    faults = judge.fuzz([target], 1.0, 7, told.append)
    assert [fault.what[:17] for fault in faults] == ["ZeroDivisionError"] and told == faults
    with judge.Watch() as watch:
        assert b"z" in faults[0].data and judge.judge(target, faults[0].data, watch) is not None
    assert time.monotonic() - begun_s < 60


def test_wrong_names_of_decoders_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fuzz.main(["--only", "wire-json,nothing"])
    assert "--only nothing: allowed are wire-json, wire-msgpack" in capsys.readouterr().err
