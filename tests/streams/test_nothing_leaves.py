"""A default run has no socket but its own of the user, sends no byte, and writes no picture and no sound.

In a network namespace of its own, whose counters begin at zero, and under strace; each where it may run.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from job_process import environment, media_files
from tiny_bundle import write_bundle

HOPS = 50
APART = ("unshare", "--map-root-user", "--net")
TRACED = ("strace", "-f", "-qq", "-e", "trace=network,openat,creat,open", "-o")
# The counters of the namespace, which ends with its last process.
TELL = 'dump=$1; shift; "$@"; code=$?; cat /proc/self/net/snmp /proc/self/net/dev >"$dump"; exit $code'


@cache
def may(*command: str) -> bool:
    """True when this machine lets us run something so."""
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run([*command, "true"], capture_output=True, timeout=60).returncode == 0


def run(place: Path, *around: str) -> None:
    """A session of HOPS hops, which must publish them all."""
    write_bundle(place / "bundle")
    session = [sys.executable, "-m", "clcr_stream", "--input", f"test://?seconds={HOPS / 5}", "--pace", "max"]
    session += ["--bundle", str(place / "bundle"), "--json", "--quiet"]
    done = subprocess.run(
        [*around, *session], env=environment(place), cwd=place / "cwd", capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["ticks"], told["published"]) == (HOPS, HOPS)


def left(place: Path) -> list[str]:
    """What the session has left in its folders."""
    folders = [place / name for name in ("home", "tmp", "run", "cache", "cwd")]
    return [str(path) for folder in folders for path in folder.rglob("*") if path.is_file()]


def test_a_default_run_without_any_network_publishes_everything_and_sends_nothing(tmp_path: Path) -> None:
    if not may(*APART):
        pytest.skip("unshare --net is not allowed here")
    run(tmp_path, *APART, "sh", "-c", TELL, "sh", str(tmp_path / "counters"))
    lines = (tmp_path / "counters").read_text().splitlines()
    tables = [line.split() for line in lines if line.startswith(("Ip:", "Tcp:", "Udp:"))]
    counted = {
        f"{names[0]}{name}": int(value)
        for names, values in zip(tables[::2], tables[1::2], strict=True)
        for name, value in zip(names[1:], values[1:], strict=True)
    }
    tried = (
        "Ip:OutRequests",
        "Ip:OutNoRoutes",
        "Tcp:ActiveOpens",
        "Tcp:PassiveOpens",
        "Tcp:OutSegs",
        "Udp:OutDatagrams",
    )
    assert {name: counted[name] for name in tried} == dict.fromkeys(tried, 0)
    sent_bytes = [int(line.split(":")[1].split()[8]) for line in lines if re.match(r" *\w+: *\d+ ", line)]
    assert sent_bytes and set(sent_bytes) == {0}
    assert left(tmp_path) == []


def test_a_default_run_never_asks_for_an_internet_socket_and_creates_no_media_file(tmp_path: Path) -> None:
    if not may(*TRACED, "/dev/null"):
        pytest.skip("strace is not here, or may not trace")
    run(tmp_path, *TRACED, str(tmp_path / "trace"))
    trace = (tmp_path / "trace").read_text(errors="replace")
    families = set(re.findall(r"\bsocket(?:pair)?\((\w+)", trace))
    assert "AF_UNIX" in families and families <= {"AF_UNIX", "AF_NETLINK"}
    created = re.findall(r'(?:open|openat|creat)\((?:AT_FDCWD, )?"([^"]*)", [^)\n]*O_CREAT', trace)
    assert any(name.endswith(".sock.lock") for name in created), "the trace sees what is created"
    assert media_files(created) == [] and left(tmp_path) == []
