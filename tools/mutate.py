"""Do the tests notice? A fixed sample of one-place changes of the runtime, each run against its module's own tests.

    python tools/mutate.py                          200 changes, on all cores; prints the survivors, exit 1 below 90 %
    python tools/mutate.py --only streams/loop      every change of the modules whose path contains this
    python tools/mutate.py --check                  only whether every module has its tests

The changes (checks/mutations.py) are drawn with a seed and by content, so that the sample stays while other code moves.
Every change is made in a copy of the tree, one copy per core. Results go to build/mutations.json after each change; a
second run repeats only what is new, what survived, and changes of modules that were edited since. A change that
no test can notice, because the program does the same with it, stands in EQUIVALENT with the reason.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from checks.mutations import Change, changes, sample
from checks.own_tests import OWN_TESTS

ROOT = Path(__file__).resolve().parents[1]
RUNTIME = Path("runtime/clcr_stream")
COUNT, SEED, GOAL = 200, 8, 0.9
BASELINE_TIMEOUT_S = 600.0
PLUGINS = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest")  # the latter only reports, and takes a second
ANYWHERE = "not device and not gpu and not data"
PARTS = (f"not slow and {ANYWHERE}", f"slow and {ANYWHERE}")  # slow tests where the fast ones notice nothing
NOTHING_RAN = 5  # pytest's exit code
# No behaviour of their own, or text for people only.
NOT_SAMPLED = ("__init__", "cli/terminal", "recording/style")
_MORE_CALLS = "allows more calls, and nobody makes one"
_WITH_A_BOX = "it is read only while there is a face, and finding one sets it"
# "module:function: line before -> line after": why the program does the same.
EQUIVALENT: Mapping[str, str] = {
    "config:Config: class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):"
    " -> class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=False):": _MORE_CALLS,
    "config_tree:BuilderConfig: "
    "class BuilderConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):"
    " -> class BuilderConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=False):": _MORE_CALLS,
    "frontends/faces:FaceFinder.reset: self._missed_calls = 0 -> self._missed_calls = 1": _WITH_A_BOX,
    "frontends/faces:FaceFinder.reset: self._votes = 0 -> self._votes = 1": _WITH_A_BOX,
    "frontends/faces:FaceFinder.reset: self._faces = 0 -> self._faces = 1": _WITH_A_BOX,
    'frontends/faces:FaceFinder._detect: self._box, self._missed_calls, self._state = None, 0, "lost"'
    ' -> self._box, self._missed_calls, self._state = None, 1, "lost"': _WITH_A_BOX,
    "frontends/faces:FaceFinder.crop: self._calls += 1 -> self._calls -= 1": (
        "only whether the number of calls divides without remainder is asked, and -n does where n does"
    ),
    "inference/tensorrt/plan_cache:PlanCache._write: "
    '_write_private(self._path(name, ".json"), json.dumps(record, indent=1, sort_keys=True).encode() + b"\\n") -> '
    '_write_private(self._path(name, ".json"), json.dumps(record, indent=1, sort_keys=False).encode() + b"\\n")': (
        "only the order of the lines in a file that is read as JSON"
    ),
    "sources/subtitles:_blocks: number = 0 -> number = 1": "it is read after the loop has set it, or not at all",
    "streams/loop:Loop._step: for seat, session in zip(seats, sessions, strict=True):"
    " -> for seat, session in zip(seats, sessions, strict=False):": "a seat has one session",
    "streams/session:Session._newest_due: while newest > first and self._ended(grid.tick(newest).end_ns):"
    " -> while newest >= first and self._ended(grid.tick(newest).end_ns):": (
        "the first has not ended, or it would not be due"
    ),
    "window/ring:AudioRing._advance: if stop <= self._end: -> if stop < self._end:": "nothing lies between them",
    "window/ring:VisionRing.__init__: self._newest_slot = -1 -> self._newest_slot = -0": "slots below 0 are late",
    "window/ring:VisionRing._seen: if self._newest_ns is None or captured_ns > self._newest_ns:"
    " -> if self._newest_ns is None or captured_ns >= self._newest_ns:": "the same time again",
}


@dataclass(frozen=True)
class Result:
    """What became of one change."""

    module: str
    line: int
    where: str
    kind: str
    before: str
    after: str
    outcome: str  # pending, noticed, survived or equivalent
    by: str  # the test that failed first, "timeout", or the reason of an equivalent one
    module_sha256: str
    tests_sha256: str

    @property
    def key(self) -> str:
        """The change without its line number, as EQUIVALENT names it."""
        return f"{self.module}:{self.where}: {self.before} -> {self.after}"

    def __str__(self) -> str:
        return f"{RUNTIME / self.module}.py:{self.line}: {self.before}  ->  {self.after}"


def module_of(path: Path) -> str:
    """`runtime/clcr_stream/wire/client.py` is `wire/client`."""
    return path.relative_to(RUNTIME).with_suffix("").as_posix()


def modules(root: Path) -> list[Path]:
    """The runtime's modules that have behaviour, relative to the root."""
    paths = sorted(path.relative_to(root) for path in (root / RUNTIME).rglob("*.py"))
    return [path for path in paths if path.stem not in NOT_SAMPLED and module_of(path) not in NOT_SAMPLED]


def tests_of(module: str, root: Path) -> list[str]:
    """The test files of a module; [] when it has none."""
    room, _, name = module.rpartition("/")
    path = f"tests/{room}/test_{name}.py" if room else f"tests/test_{name}.py"
    more = [f"tests/{name}.py" for name in OWN_TESTS.get(module, ())]
    return ([path] if (root / path).is_file() else []) + more


def gaps(root: Path) -> list[str]:
    """One line per module without tests, and per entry of OWN_TESTS that names a module or file that is not there."""
    names = [module_of(path) for path in modules(root)]
    lines = [
        f"{name}: no tests; add tests/.../test_*.py or an entry in OWN_TESTS"
        for name in names
        if not tests_of(name, root)
    ]
    lines += [f"{name}: in OWN_TESTS, but there is no such module" for name in OWN_TESTS if name not in names]
    for name in OWN_TESTS:
        lines += [f"{name}: {path} does not exist" for path in tests_of(name, root) if not (root / path).is_file()]
    return lines


class Tree:
    """A copy of the working tree in which one change at a time is made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in files(ROOT):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)

    def run(self, tests: Sequence[str], part: str, timeout_s: float) -> tuple[str, str]:
        """("passed" | "failed" | "timeout" | "nothing", the test that failed first) of the tests with such markers."""
        command = [sys.executable, "-m", "pytest", "-x", "-q", *PLUGINS, "-m", part, *tests]
        path = os.pathsep.join(str(self.folder / name) for name in ("runtime", "export", "model"))
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        process = subprocess.Popen(
            command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            output, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.communicate()
            return "timeout", ""
        if process.returncode == NOTHING_RAN:
            return "nothing", ""
        first = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
        if process.returncode not in (0, 1, 2):
            return "failed", first[1] if first else output.strip().splitlines()[-1]
        return ("failed" if process.returncode else "passed"), first[1] if first else ""

    def judge(self, change: tuple[Path, Change], tests: Sequence[str], part: str, timeout_s: float) -> tuple[str, str]:
        """("noticed", by which test) or ("survived", ""); the file is as it was afterwards."""
        path, edit = change
        source = (ROOT / path).read_text(encoding="utf-8")
        (self.folder / path).write_text(edit.applied(source), encoding="utf-8")
        try:
            outcome, by = self.run(tests, part, timeout_s)
        finally:
            (self.folder / path).write_text(source, encoding="utf-8")
        return ("survived", "") if outcome == "passed" else ("noticed", by or outcome)


def files(root: Path) -> Iterator[str]:
    """What git knows and does not ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    yield from (name for name in listed.split("\0") if name and (root / name).is_file())


class Store:
    """The results so far, in a file that is rewritten after each of them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        entries = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
        self._results = {result.key: result for result in (Result(**entry) for entry in entries)}

    def known(self, pending: Result) -> Result | None:
        """What an earlier run found out, unless the module changed since, or survived and its tests changed."""
        result = self._results.get(pending.key)
        if result is None or result.module_sha256 != pending.module_sha256:
            return None
        same_tests = result.tests_sha256 == pending.tests_sha256
        return result if result.outcome == "noticed" or same_tests else None

    def add(self, result: Result) -> None:
        with self._lock:
            self._results[result.key] = result
            self._path.parent.mkdir(parents=True, exist_ok=True)
            part = self._path.with_suffix(".part")
            part.write_text(json.dumps([asdict(r) for r in self._results.values()], indent=1), encoding="utf-8")
            part.replace(self._path)


def pending_result(path: Path, change: Change) -> Result:
    """A change that nobody has judged yet, with the hashes of what the judgement depends on."""
    module = module_of(path)
    tests = b"".join((ROOT / name).read_bytes() for name in tests_of(module, ROOT))
    hashes = [hashlib.sha256(data).hexdigest() for data in ((ROOT / path).read_bytes(), tests)]
    return Result(module, change.line, change.where, change.kind, change.before, change.after, "pending", "", *hashes)


def judge_all(drawn: Sequence[tuple[Path, Change]], store: Store, jobs: int) -> list[Result]:
    """The result of each change; what the store does not know is run, on `jobs` copies of the tree."""
    results = {index: pending_result(path, change) for index, (path, change) in enumerate(drawn)}
    for index, result in results.items():
        reason = EQUIVALENT.get(result.key)
        known = replace(result, outcome="equivalent", by=reason) if reason else store.known(result)
        results[index] = known if known is not None else result
    waiting = [index for index, result in results.items() if result.outcome == "pending"]
    with tempfile.TemporaryDirectory(prefix="clcr-mutate-") as folder:
        trees: queue.Queue[Tree] = queue.Queue()
        for number in range(min(jobs, len(waiting))):
            trees.put(Tree(Path(folder) / str(number)))

        def borrowed(act: Callable[[Tree], tuple[str, str]]) -> tuple[str, str, float]:
            tree, began = trees.get(), time.monotonic()
            try:
                return *act(tree), time.monotonic() - began
            finally:
                trees.put(tree)

        def settled(result: Result) -> None:
            store.add(result)
            print(f"{result.outcome:8} {result}", file=sys.stderr, flush=True)

        def settle(module: str) -> None:
            tests, ran = tests_of(module, ROOT), False
            left = [index for index in waiting if results[index].module == module]
            for part in PARTS:
                if not left:
                    break
                run = partial(Tree.run, tests=tests, part=part, timeout_s=BASELINE_TIMEOUT_S)
                outcome, by, baseline_s = borrowed(run)
                if outcome == "nothing":
                    continue
                if outcome != "passed":
                    print(f"mutate: {module}: its tests do not pass unchanged ({outcome} {by})", file=sys.stderr)
                    return
                ran = True
                for index in left:
                    judge = partial(
                        Tree.judge, change=drawn[index], tests=tests, part=part, timeout_s=3 * baseline_s + 20
                    )
                    outcome, by, _ = borrowed(judge)
                    results[index] = replace(results[index], outcome=outcome, by=by)
                    if outcome == "noticed":
                        settled(results[index])
                left = [index for index in left if results[index].outcome != "noticed"]
            for index in left if ran else ():
                settled(results[index])

        with ThreadPoolExecutor(max(1, trees.qsize())) as pool:
            list(pool.map(settle, sorted({results[index].module for index in waiting})))
    return [results[index] for index in sorted(results)]


def report(results: Sequence[Result]) -> tuple[str, float]:
    """The survivors, one per line, and the share of the changes that were noticed (equivalent ones left out)."""
    lines = [str(result) for result in results if result.outcome == "survived"]
    judged = [result for result in results if result.outcome != "equivalent"]
    noticed = sum(result.outcome == "noticed" for result in judged)
    share = noticed / len(judged) if judged else 1.0
    equivalent = len(results) - len(judged)
    pending = sum(result.outcome == "pending" for result in judged)
    lines.append(f"{noticed} of {len(judged)} changes noticed ({share:.1%}), {equivalent} more are equivalent")
    if pending:
        lines.append(f"{pending} of them were not judged, because their tests do not pass unchanged")
    return "\n".join(lines), share


def main(arguments: Sequence[str]) -> int:
    """Draw, judge, report; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="TEXT", help="every change of the modules whose path contains TEXT")
    parser.add_argument("--check", action="store_true", help="only whether every module has tests")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="copies of the tree (default: cores)")
    parser.add_argument("--store", type=Path, default=ROOT / "build/mutations.json", help="where results are kept")
    options = parser.parse_args(arguments)
    missing = gaps(ROOT)
    if missing or options.check:
        print("\n".join(missing), file=sys.stderr)
        return 1 if missing else 0
    found = {path.as_posix(): changes((ROOT / path).read_text(encoding="utf-8")) for path in modules(ROOT)}
    if options.only:
        drawn = [(path, change) for path, some in found.items() if options.only in path for change in some]
    else:
        drawn = sample(found, COUNT, SEED)
    results = judge_all([(Path(path), change) for path, change in drawn], Store(options.store), options.jobs)
    text, share = report(results)
    print(text)
    return 0 if share >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
