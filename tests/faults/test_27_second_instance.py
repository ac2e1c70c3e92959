"""Fault 27: a second session wants the first one's endpoint; a dead one has left its lock and its socket behind."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from driving import socket_folder
from job_process import NS_PER_S, Watched, environment
from tiny_bundle import write_bundle

PUBLISH_ERROR = 6


def session(place: Path, bind: str | None) -> Watched:
    """The command with the sound of test://, at the user's own endpoint without `bind`."""
    write_bundle(place / "bundle")
    arguments = ["--bundle", str(place / "bundle"), "--backend", "null", "--transcript", "none", "--pace", "real"]
    return Watched(place, [*arguments, "--camera", "none", "--mic", "test://"], bind)


def test_a_second_session_is_refused_the_first_goes_on_and_a_dead_one_is_replaced(
    record_property: Callable[[str, object], None],
) -> None:
    with socket_folder() as folder:
        place = Path(folder)
        with session(place, None) as first:
            first.expect(lambda one: True, 30)
            refused = subprocess.run(
                first.command, env=environment(place), cwd=place / "cwd", capture_output=True, text=True, timeout=60
            )
            tried_ns = first.now_ns()
            first.expect(lambda one: True, 10, after_ns=tried_ns + NS_PER_S // 2)
            seqs = [got.message["seq"] for got in first.reader.received("prediction")]
            sockets = sorted(path.name for path in (place / "run/clcr-stream").iterdir())
            first.process.kill()
            first.process.wait()
        left = sorted(path.name for path in (place / "run/clcr-stream").iterdir())
        with session(place, None) as second:
            began_ns = second.now_ns()
            again = second.expect(lambda one: True, 30)
            code, _ = second.terminate()
        after = sorted(path.name for path in (place / "run/clcr-stream").iterdir())
    assert refused.returncode == PUBLISH_ERROR and len(refused.stderr.strip().splitlines()) == 1
    assert f"in use by process {first.process.pid}" in refused.stderr
    assert seqs == list(range(seqs[0], seqs[0] + len(seqs))), "the first one's reader missed nothing"
    assert left == sockets == ["proof.sock", "proof.sock.lock"], "a killed session leaves both"
    assert code == 0 and after == [], "an orderly end leaves neither"
    record_property("fault_27", {"start_over_a_stale_lock_s": (again.arrived_ns - began_ns) / NS_PER_S})


def test_a_port_in_use_is_refused_in_one_line(tmp_path: Path) -> None:
    from faulty import watched

    with watched(tmp_path, "--camera", "none", "--mic", "test://") as first:
        first.expect(lambda one: True, 30)
        refused = subprocess.run(
            first.command, env=environment(tmp_path), cwd=tmp_path / "cwd", capture_output=True, text=True, timeout=60
        )
        first.expect(lambda one: True, 10, after_ns=first.now_ns())
    assert refused.returncode == PUBLISH_ERROR and "Address already in use" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
